-- Requests that did not prove their sender, kept for a while (rules.md 27, 30): the operator sees why, and may deliver
-- them once the configuration is right. Bounded per source; the oldest go first.
CREATE TABLE rejections (
    event_id    uuid        PRIMARY KEY,  -- of the 401; the event keeps it when it is released
    source      text        NOT NULL,
    received_at timestamptz NOT NULL,     -- the time that the proof was judged by, and is again
    code        text        NOT NULL,
    detail      text        NOT NULL,     -- for operators alone
    method      text        NOT NULL,
    path        text        NOT NULL,
    query       text,
    headers     jsonb       NOT NULL,     -- as in events, names as sent
    withheld    jsonb       NOT NULL,     -- [["header" or "query", place, keyed hash], …] of what became [redacted]
    body        bytea       NOT NULL,
    peer        text        NOT NULL,
    base        text,                     -- scheme://host by the word of a trusted proxy
    size_bytes  integer     NOT NULL,
    released_at timestamptz
) WITH (toast_tuple_target = 4080);

-- For a source's bounds: read without the rows themselves.
CREATE INDEX rejections_source_idx ON rejections (source, event_id) INCLUDE (size_bytes);
