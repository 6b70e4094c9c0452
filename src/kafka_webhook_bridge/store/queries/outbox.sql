-- name: outbox_store
-- A batch of events that wait for Kafka, each with its row of events (rules.md 4). Numbers of sources that keep order
-- are given under the lock of the source's row, so they become visible in their order; sources are locked in theirs
-- (rules.md 6). A body that is the record's value comes once.
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::jsonb[], $10::bytea[], $11::jsonb[], $12::text[], $13::text[], $14::bytea[], $15::text[], $16::boolean[],
        $17::text[], $18::text[], $19::text[], $20::jsonb[], $21::text[],
        $22::bytea[], $23::bytea[], $24::bytea[], $25::integer[], $26::boolean[], $27::text[], $28::boolean[]
    ) WITH ORDINALITY AS b (
        event_id, received_at, source, type, method, path, query, content_type,
        headers, body, body_json, parse_error, key, key_bytes, verified, covers_body,
        dedupe_key, format, traceparent, marks, topic,
        record_key, value, record_headers, size_bytes, handed, reason, strict, place
    )
),
counted AS (
    INSERT INTO outbox_numbers AS n (source, last)
    SELECT source, count(*) FROM batch WHERE strict GROUP BY source ORDER BY source
    ON CONFLICT (source) DO UPDATE SET last = n.last + excluded.last
    RETURNING source, last
),
archived AS (
    INSERT INTO events (
        event_id, received_at, source, type, method, path, query, content_type,
        headers, body, body_json, parse_error, key, key_bytes, verified, covers_body,
        dedupe_key, format, traceparent, marks, topic, state
    )
    SELECT
        event_id, received_at, source, type, method, path, query, content_type,
        headers, coalesce(body, value), body_json, parse_error, key, key_bytes, verified, covers_body,
        dedupe_key, format, traceparent, marks, topic, CASE WHEN reason IS NULL THEN 'waiting' ELSE 'blocked' END
    FROM batch
    ON CONFLICT (event_id) DO NOTHING
)
INSERT INTO outbox (
    event_id, source, topic, key, value, headers, size_bytes, relay_after, state, reason, number
)
SELECT
    b.event_id, b.source, b.topic, b.record_key, b.value, b.record_headers, b.size_bytes,
    CASE WHEN b.handed THEN now() + make_interval(secs => $29) ELSE now() END,
    CASE WHEN b.reason IS NULL THEN 'waiting' ELSE 'blocked' END, b.reason,
    c.last - count(*) OVER (PARTITION BY b.source, b.strict)
        + row_number() OVER (PARTITION BY b.source, b.strict ORDER BY b.place)
FROM batch AS b LEFT JOIN counted AS c ON b.strict AND c.source = b.source
ON CONFLICT (event_id) DO NOTHING;

-- name: outbox_close
-- Kafka has acknowledged them after all. One that a relay sends now is the relay's (rules.md 2).
DELETE FROM outbox WHERE event_id = ANY ($1::uuid[]) AND (lease_until IS NULL OR lease_until < now());

-- name: outbox_disk_bytes
-- With indexes and what was deleted lately, so never less than its rows take; costs nothing.
SELECT pg_total_relation_size('outbox');

-- name: outbox_usage
-- Reads the whole table.
SELECT count(*) AS rows, coalesce(sum(size_bytes), 0)::bigint AS size_bytes FROM outbox;
