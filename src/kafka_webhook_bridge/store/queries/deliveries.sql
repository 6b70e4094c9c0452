-- name: deliveries_claim
-- Who delivers what? A key that is free, expired or older than the window becomes the caller's for $4 ms; an expired one
-- keeps its event_id. Of all others the row as it stands. A key without a row in the answer was taken in this moment.
-- Sorted, so that two callers never wait for each other.
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest($1::bytea[], $2::uuid[]) AS a (dedupe_key, event_id)
), mine AS (
    INSERT INTO deliveries AS d (dedupe_key, event_id, lease_until)
    SELECT dedupe_key, event_id, clock_timestamp() + $4::integer * interval '1 ms' FROM asked ORDER BY dedupe_key
    ON CONFLICT (dedupe_key) DO UPDATE SET
        event_id = CASE WHEN d.event_id < $3 THEN excluded.event_id ELSE d.event_id END,
        lease_until = excluded.lease_until, stored = NULL, topic = NULL, body_sha256 = NULL
    WHERE CASE WHEN d.stored IS NULL THEN d.lease_until <= clock_timestamp() ELSE d.event_id < $3 END
    RETURNING dedupe_key, event_id
)
SELECT dedupe_key, event_id, true AS mine, NULL AS stored, NULL AS topic, NULL AS body_sha256 FROM mine
UNION ALL
SELECT d.dedupe_key, d.event_id, false, CASE WHEN d.event_id >= $3 THEN d.stored END, d.topic, d.body_sha256
FROM asked JOIN deliveries AS d USING (dedupe_key)
WHERE NOT EXISTS (SELECT FROM mine WHERE mine.dedupe_key = d.dedupe_key);

-- name: deliveries_settle
-- The events are durable. A row that is another event's stays; where it is stored is said once, and `both` is more.
INSERT INTO deliveries AS d (dedupe_key, event_id, lease_until, stored, topic, body_sha256)
SELECT n.dedupe_key, n.event_id, now(), n.stored, n.topic, n.body_sha256
FROM unnest($1::bytea[], $2::uuid[], $3::text[], $4::text[], $5::bytea[])
    AS n (dedupe_key, event_id, stored, topic, body_sha256)
ORDER BY n.dedupe_key
ON CONFLICT (dedupe_key) DO UPDATE SET
    stored = excluded.stored, topic = excluded.topic, body_sha256 = excluded.body_sha256
WHERE d.event_id = excluded.event_id AND (d.stored IS NULL OR excluded.stored = 'both');

-- name: deliveries_release
-- Nothing came of these claims: whoever is next need not wait for the end of the lease.
WITH held AS (
    SELECT d.dedupe_key FROM deliveries AS d JOIN unnest($1::bytea[], $2::uuid[]) AS n (dedupe_key, event_id)
        ON d.dedupe_key = n.dedupe_key AND d.event_id = n.event_id AND d.stored IS NULL
    ORDER BY d.dedupe_key FOR UPDATE OF d
)
UPDATE deliveries AS d SET lease_until = now() FROM held WHERE d.dedupe_key = held.dedupe_key;

-- name: deliveries_expire
-- What is older than the window, so many rows at a time.
DELETE FROM deliveries WHERE dedupe_key IN (
    SELECT dedupe_key FROM deliveries WHERE event_id < $1 ORDER BY event_id LIMIT $2
);
