-- name: rejections_write
-- A batch of refused requests.
INSERT INTO rejections (
    event_id, source, received_at, code, detail, method, path, query, headers, withheld, body, peer, base, size_bytes
)
SELECT * FROM unnest(
    $1::uuid[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::jsonb[],
    $10::jsonb[], $11::bytea[], $12::text[], $13::text[], $14::integer[]
)
ON CONFLICT (event_id) DO NOTHING;

-- name: rejections_trim
-- Of each of these sources the newest $2 rows and $3 bytes stay. Reads the index alone.
DELETE FROM rejections AS r USING (
    SELECT event_id, row_number() OVER newest AS place, sum(size_bytes) OVER newest AS bytes
    FROM rejections WHERE source = ANY ($1::text[])
    WINDOW newest AS (PARTITION BY source ORDER BY event_id DESC)
) AS q
WHERE r.event_id = q.event_id AND (q.place > $2::bigint OR q.bytes > $3::bigint);

-- name: rejections_expire
-- What is too old, so many rows at a time.
DELETE FROM rejections WHERE event_id IN (
    SELECT event_id FROM rejections WHERE event_id < $1 ORDER BY event_id LIMIT $2
);

-- name: rejections_search
-- A page without bodies and headers.
SELECT event_id, source, received_at, code, detail, method, path, query, peer, size_bytes,
       octet_length(body) AS body_bytes, released_at
FROM rejections WHERE {where} ORDER BY event_id {order} LIMIT {limit};

-- name: rejections_get
-- Everything about one.
SELECT event_id, source, received_at, code, detail, method, path, query, headers, withheld, body, peer, base,
       size_bytes, released_at
FROM rejections WHERE event_id = $1;

-- name: rejections_released
-- In the transaction that stores its event. No row: somebody was faster.
UPDATE rejections SET released_at = now() WHERE event_id = $1 AND released_at IS NULL RETURNING true;
