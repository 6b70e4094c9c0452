-- name: relay_plan
-- The outbox is empty or it holds millions: what the planner believed yesterday is wrong. Only its indexes are right.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true);

-- name: relay_claim
-- Lease $1 rows that are due for $6 seconds, every topic its share, the oldest first; nothing of the topics in $3, one row
-- of each in $4, and no more after $5 bytes. No position is kept anywhere, so what is committed late is found as well.
WITH RECURSIVE topics (topic) AS (
    (SELECT topic FROM outbox WHERE state = 'waiting' AND number IS NULL ORDER BY topic LIMIT 1)
    UNION ALL
    SELECT (
        SELECT o.topic FROM outbox AS o
        WHERE o.state = 'waiting' AND o.number IS NULL AND o.topic > t.topic ORDER BY o.topic LIMIT 1
    )
    FROM topics AS t WHERE t.topic IS NOT NULL
), ready AS MATERIALIZED (
    SELECT t.topic FROM topics AS t
    WHERE t.topic IS NOT NULL AND t.topic <> ALL ($3::text[]) AND EXISTS (
        SELECT FROM outbox AS o
        WHERE o.state = 'waiting' AND o.number IS NULL AND o.topic = t.topic AND o.relay_after <= now()
    )
), due AS MATERIALIZED (
    SELECT d.event_id, d.relay_after, d.size_bytes
    FROM ready AS r CROSS JOIN LATERAL (
        SELECT o.event_id, o.relay_after, o.size_bytes FROM outbox AS o
        WHERE o.state = 'waiting' AND o.number IS NULL AND o.topic = r.topic AND o.relay_after <= now()
          AND (o.lease_until IS NULL OR o.lease_until < now())
        ORDER BY o.relay_after
        LIMIT CASE WHEN r.topic = ANY ($4::text[]) THEN 1 ELSE greatest(1, $1::bigint / (SELECT count(*) FROM ready)) END
        FOR UPDATE SKIP LOCKED
    ) AS d
), few AS (
    SELECT event_id, sum(size_bytes) OVER (ORDER BY relay_after, event_id) - size_bytes AS before_bytes FROM due
)
UPDATE outbox AS o SET lease_holder = $2, lease_until = now() + make_interval(secs => $6)
FROM few WHERE o.event_id = few.event_id AND few.before_bytes < $5::bigint
RETURNING o.event_id, o.source, o.topic, o.key, o.value, o.headers, o.size_bytes, o.reason;

-- name: relay_done
-- Kafka has them. Only what is still leased to this relay.
DELETE FROM outbox WHERE event_id = ANY ($1::uuid[]) AND lease_holder = $2;

-- name: relay_failed
-- Try them again, each later than the last time, at most $4 seconds.
UPDATE outbox AS o SET
    attempts = o.attempts + 1, reason = f.reason, lease_holder = NULL, lease_until = NULL,
    relay_after = now() + make_interval(secs => least($4::float8, 0.5 * 2 ^ least(o.attempts, 20)))
FROM unnest($1::uuid[], $2::text[]) AS f (event_id, reason)
WHERE o.event_id = f.event_id AND o.lease_holder = $3;

-- name: relay_returned
-- They were not sent.
UPDATE outbox SET lease_holder = NULL, lease_until = NULL WHERE event_id = ANY ($1::uuid[]) AND lease_holder = $2;

-- name: relay_halted
-- Kafka refuses them until somebody does something.
UPDATE outbox AS o SET
    state = $4, attempts = o.attempts + 1, reason = f.reason, lease_holder = NULL, lease_until = NULL
FROM unnest($1::uuid[], $2::text[]) AS f (event_id, reason)
WHERE o.event_id = f.event_id AND o.lease_holder = $3
RETURNING o.event_id;

-- name: relay_events_state
-- The event says what its outbox row says, unless it has reached Kafka. $3 and $4 are the first and the last of the ids.
UPDATE events SET state = $2
WHERE event_id = ANY ($1::uuid[]) AND event_id >= $3 AND event_id <= $4 AND "offset" IS NULL AND state <> $2;

-- name: relay_block_topic
-- Other events of a topic that cannot be written to, $3 at a time.
UPDATE outbox SET state = 'blocked', reason = $2
WHERE event_id IN (
    SELECT event_id FROM outbox
    WHERE state = 'waiting' AND number IS NULL AND topic = $1 AND (lease_until IS NULL OR lease_until < now())
    LIMIT $3 FOR UPDATE SKIP LOCKED
)
RETURNING event_id;

-- name: relay_release
-- Let rows wait for the relay again, $5 at a time. Of the states in $1; topic, reason and id where they are given.
UPDATE outbox SET state = 'waiting', reason = NULL, attempts = 0, relay_after = now()
WHERE event_id IN (
    SELECT event_id FROM outbox
    WHERE state <> 'waiting' AND state = ANY ($1::text[]) AND ($2::text IS NULL OR topic = $2)
      AND ($3::text IS NULL OR reason = $3) AND ($4::uuid IS NULL OR event_id = $4) AND (number IS NULL OR $6)
    LIMIT $5 FOR UPDATE SKIP LOCKED
)
RETURNING event_id;

-- name: relay_blocked_topics
-- Topics with blocked events, each with one reason. Those of strict sources look after themselves.
WITH RECURSIVE topics (topic) AS (
    (SELECT topic FROM outbox WHERE state <> 'waiting' AND state = 'blocked' ORDER BY topic LIMIT 1)
    UNION ALL
    SELECT (
        SELECT o.topic FROM outbox AS o
        WHERE o.state <> 'waiting' AND o.state = 'blocked' AND o.topic > t.topic ORDER BY o.topic LIMIT 1
    )
    FROM topics AS t WHERE t.topic IS NOT NULL
)
SELECT t.topic, o.reason
FROM topics AS t CROSS JOIN LATERAL (
    SELECT reason FROM outbox
    WHERE state <> 'waiting' AND state = 'blocked' AND topic = t.topic AND number IS NULL LIMIT 1
) AS o
WHERE t.topic IS NOT NULL;

-- name: relay_sizes
-- Reads the whole outbox: whoever asks, asks seldom when the answer took long.
SELECT state, count(*) AS rows, sum(size_bytes)::bigint AS bytes,
       extract(epoch FROM now() - min(created_at))::float8 AS oldest_seconds
FROM outbox GROUP BY state;

-- name: relay_counts
-- For people: what is there, and why.
SELECT state, topic, reason, count(*) AS rows, sum(size_bytes)::bigint AS bytes, min(created_at) AS oldest,
       max(attempts) AS attempts, bool_or(number IS NOT NULL) AS strict
FROM outbox GROUP BY state, topic, reason ORDER BY state, topic, reason;

-- name: strict_sources
-- Sources with ordering: strict that have events in the outbox.
WITH RECURSIVE sources (source) AS (
    (SELECT source FROM outbox WHERE number IS NOT NULL ORDER BY source LIMIT 1)
    UNION ALL
    SELECT (SELECT o.source FROM outbox AS o WHERE o.number IS NOT NULL AND o.source > s.source ORDER BY o.source LIMIT 1)
    FROM sources AS s WHERE s.source IS NOT NULL
)
SELECT source FROM sources WHERE source IS NOT NULL;

-- name: strict_next
-- The next events of a source in their order, whatever their state; no more after $3 bytes.
SELECT event_id, source, topic, key, value, headers, size_bytes, reason
FROM outbox JOIN (
    SELECT event_id AS id, number AS place, sum(size_bytes) OVER (ORDER BY number) - size_bytes AS before_bytes
    FROM (
        SELECT event_id, number, size_bytes FROM outbox
        WHERE source = $1 AND number IS NOT NULL ORDER BY number LIMIT $2
    ) AS next
) AS few ON event_id = few.id
WHERE few.before_bytes < $3::bigint
ORDER BY few.place;

-- name: strict_done
-- Kafka has them, which stays true whoever has the lease by now.
DELETE FROM outbox WHERE event_id = ANY ($1::uuid[]);

-- name: strict_failed
-- The event that its source waits for.
UPDATE outbox SET attempts = attempts + 1, reason = $2, state = $3 WHERE event_id = $1;
