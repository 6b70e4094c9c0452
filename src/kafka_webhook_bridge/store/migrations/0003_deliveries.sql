-- Deliveries of sources with `dedupe: suppress` (rules.md 14). A row is pending while one request makes the event durable,
-- and durable once `stored` says where it is. The event_id stays through every take-over of a pending row.
CREATE TABLE deliveries (
    dedupe_key  bytea       PRIMARY KEY,  -- rules.md 13, 32 bytes
    event_id    uuid        NOT NULL,     -- the time inside it begins the window
    lease_until timestamptz NOT NULL,     -- of a pending row; by the database's clock
    stored      text        CHECK (stored IN ('kafka', 'outbox', 'both')),
    -- What else the receipt of the event said.
    topic       text,
    body_sha256 bytea,
    CHECK ((stored IS NULL) = (topic IS NULL) AND (stored IS NULL) = (body_sha256 IS NULL))
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);  -- a row is updated once, beside itself

-- For retention: ids sort by time.
CREATE INDEX deliveries_event_id_idx ON deliveries (event_id);
