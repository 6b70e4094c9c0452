-- Events that are sent to Kafka once more: replays, with an id of their own in each record, and rebuilds, which make a
-- lost topic anew (rules.md 15). A row says how far it is; whatever is sent after that is looked for in Kafka when the
-- process that sent it has died.
CREATE TABLE replays (
    replay_id   uuid        PRIMARY KEY,
    kind        text        NOT NULL CHECK (kind IN ('replay', 'rebuild')),
    state       text        NOT NULL DEFAULT 'paused' CHECK (state IN ('paused', 'running', 'done')),
    -- Nothing is under way: whatever was sent is acknowledged and counted below.
    clean       boolean     NOT NULL DEFAULT true,
    pause_asked boolean     NOT NULL DEFAULT false,
    reason      text,                  -- of the last failure
    selection   jsonb       NOT NULL,  -- what a replay takes; of a rebuild its `since` alone
    to_topic    text,                  -- of a rebuild its topic; NULL: each event's own
    topic_id    uuid,                  -- of a rebuild: the topic's new life, once it is made
    partitions  integer,               -- of a rebuild: as many as before
    rate        double precision,      -- records a second at most
    events      bigint      NOT NULL,  -- selected when it was made
    size_bytes  bigint      NOT NULL,  -- of their bodies
    after_id    uuid,                  -- a replay passed everything up to this event
    after_place bigint      NOT NULL DEFAULT 0,  -- a rebuild passed everything up to this place
    passed      bigint      NOT NULL DEFAULT 0,  -- events that Kafka has
    found       bigint      NOT NULL DEFAULT 0,  -- of these were there already, sent by a process that died
    duplicates  bigint      NOT NULL DEFAULT 0,  -- records seen in Kafka beyond one for each event
    recoveries  integer     NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    -- The one process that works at it. What must not happen twice is written only by the holder.
    holder      uuid,
    lease_until timestamptz
);

-- Where the target is read from when a process has died: first its ends, then what was acknowledged last.
CREATE TABLE replay_targets (
    replay_id   uuid    NOT NULL REFERENCES replays ON DELETE CASCADE,
    topic       text    NOT NULL,
    partition   integer NOT NULL,
    topic_id    uuid    NOT NULL,
    next_offset bigint  NOT NULL,
    PRIMARY KEY (replay_id, topic, partition)
);

-- The events of a rebuild in the order in which they are written: by partition and offset. Gone when it is done.
CREATE TABLE rebuild_events (
    replay_id  uuid    NOT NULL,
    place      bigint  NOT NULL,
    event_id   uuid    NOT NULL,
    size_bytes integer NOT NULL,
    PRIMARY KEY (replay_id, place)
);

-- One rebuild of a topic at a time.
CREATE UNIQUE INDEX replays_rebuild_idx ON replays (to_topic) WHERE kind = 'rebuild' AND state <> 'done';
