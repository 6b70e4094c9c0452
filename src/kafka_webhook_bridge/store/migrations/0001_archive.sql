-- One row per event. Partitioned by the time inside event_id (UUIDv7), the only form that keeps the id unique over all
-- partitions; the bounds of partitions and of time filters are UUIDv7 prefixes computed by the bridge (store/ids.py).
CREATE TABLE events (
    event_id     uuid        NOT NULL,
    received_at  timestamptz NOT NULL,  -- the time inside event_id, never Kafka's
    source       text        NOT NULL,
    type         text        NOT NULL,
    state        text        NOT NULL DEFAULT 'stored'
                 CHECK (state IN ('waiting', 'blocked', 'quarantined', 'stored')),
    -- The request. Text is what can be searched and read: U+0000 and invalid UTF-8 became U+FFFD.
    method       text        NOT NULL,
    path         text        NOT NULL,
    query        text,
    content_type text,
    headers      jsonb       NOT NULL,  -- [[name, value], …] in order; a third member holds base64 where value is not exact
    body         bytea       NOT NULL,  -- the bytes as sent
    body_json    jsonb,                 -- derived, for search alone: NULL where it does not parse or is not indexed
    parse_error  text,                  -- why there is a body but no body_json
    -- What the bridge found.
    key          text,
    key_bytes    bytea,                 -- only where `key` is not exactly the record's key
    verified     text        NOT NULL,
    covers_body  boolean     NOT NULL,
    dedupe_key   text,
    duplicate_of uuid,
    format       text        NOT NULL CHECK (format IN ('raw', 'cloudevents', 'envelope')),
    traceparent  text,
    marks        jsonb,                 -- kwb_… headers of the record that have no column, as [[name, value], …]
    -- Where it is in Kafka; NULL while the event waits in the outbox. The topic alone is known from the start.
    topic        text        NOT NULL,
    topic_id     uuid,
    partition    integer,
    "offset"     bigint,
    PRIMARY KEY (event_id)
) PARTITION BY RANGE (event_id);

-- Every index ends in event_id, so each filter also gives the newest first and pages by event_id.
CREATE INDEX events_source_idx ON events (source, event_id);
CREATE INDEX events_type_idx ON events (type, event_id);
CREATE INDEX events_key_idx ON events (key, event_id) WHERE key IS NOT NULL;
CREATE INDEX events_dedupe_key_idx ON events (dedupe_key, event_id) WHERE dedupe_key IS NOT NULL;
-- Partial, because a GIN index keeps an entry for NULL too: rows without body_json must cost nothing here.
CREATE INDEX events_body_json_idx ON events USING gin (body_json jsonb_path_ops) WHERE body_json IS NOT NULL;

-- Events whose id lies outside all partitions (a wrong clock) are kept here until retention or a new partition.
CREATE TABLE events_default PARTITION OF events DEFAULT WITH (toast_tuple_target = 4080);

-- How far the archive has read each partition of a topic. A topic made anew has another id and starts at its own
-- beginning. Moved in the transaction that writes the rows, and only from the offset that the writer expected.
CREATE TABLE archive_offsets (
    topic_id    uuid        NOT NULL,
    partition   integer     NOT NULL,
    topic       text        NOT NULL,
    next_offset bigint      NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic_id, partition)
);

-- Topics that the bridge uses: those it made, and those it found ('outside'). A topic that is listed here and is gone
-- from Kafka has vanished; it is never made anew.
CREATE TABLE topics (
    name       text        PRIMARY KEY,
    topic_id   uuid        NOT NULL,
    made_by    text        NOT NULL CHECK (made_by IN ('open_rule', 'source', 'outside')),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Who does a job that only one process at a time shall do. Time is the database's alone.
CREATE TABLE leases (
    name       text        PRIMARY KEY,
    holder     uuid        NOT NULL,
    expires_at timestamptz NOT NULL
);
