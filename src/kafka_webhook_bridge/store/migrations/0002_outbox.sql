-- Events that PostgreSQL vouches for until they are in Kafka. Written in one statement with their row of events
-- (rules.md 4), deleted when Kafka has acknowledged them. A row holds the record as the direct path would send it.
CREATE TABLE outbox (
    event_id     uuid        PRIMARY KEY,
    source       text        NOT NULL,
    topic        text        NOT NULL,
    key          bytea,
    value        bytea       NOT NULL,
    headers      bytea       NOT NULL,  -- [[name, value], …] as JSON, a value's bytes as the characters U+0000 to U+00FF
    size_bytes   integer     NOT NULL,  -- of key, value and headers
    created_at   timestamptz NOT NULL DEFAULT now(),
    -- A record that was handed to Kafka is sent again only when its report can no longer come (rules.md 2).
    relay_after  timestamptz NOT NULL,
    state        text        NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'blocked', 'quarantined')),
    reason       text,                  -- of the last failed attempt, of the block or of the quarantine
    attempts     integer     NOT NULL DEFAULT 0,
    lease_holder uuid,                  -- the relay that sends it now
    lease_until  timestamptz,
    number       bigint                 -- its place among its source's events, with ordering: strict alone
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, toast_tuple_target = 4080);

-- By topic first: a topic that cannot take its events now must not stand in the way of the others.
CREATE INDEX outbox_due_idx ON outbox (topic, relay_after) WHERE state = 'waiting' AND number IS NULL;
CREATE UNIQUE INDEX outbox_number_idx ON outbox (source, number) WHERE number IS NOT NULL;
CREATE INDEX outbox_halted_idx ON outbox (state, topic) WHERE state <> 'waiting';

-- The last number given to an event of a source with ordering: strict. Its row is locked until the commit, so numbers
-- become visible in their order (rules.md 6).
CREATE TABLE outbox_numbers (
    source text   PRIMARY KEY,
    last   bigint NOT NULL
);
