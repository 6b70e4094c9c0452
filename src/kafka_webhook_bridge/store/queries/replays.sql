-- name: replays_count
-- Up to {limit} of the events that a replay selects, by state and topic. `stored` is what Kafka has acknowledged, whether
-- or not the archive has come to it: what it has not acknowledged has a row in the outbox.
WITH found AS {materialized} (
    SELECT event_id, state, topic, octet_length(body) AS size_bytes FROM events WHERE {where}
), page AS (
    SELECT * FROM found ORDER BY event_id LIMIT {limit}
), told AS (
    SELECT p.*, o.event_id IS NULL AS sent
    FROM page AS p LEFT JOIN outbox AS o ON p.state <> 'stored' AND o.event_id = p.event_id
)
SELECT CASE WHEN sent THEN 'stored' ELSE state END AS state, topic, count(*) AS events, sum(size_bytes)::bigint AS size_bytes,
       min(event_id::text COLLATE "C")::uuid AS first_id, max(event_id::text COLLATE "C")::uuid AS last_id
FROM told GROUP BY 1, topic;

-- name: replays_page
-- The next of them that Kafka has acknowledged, the oldest first. What they hold is read apart, as much as fits.
WITH found AS {materialized} (
    SELECT event_id, octet_length(body) AS size_bytes FROM events
    WHERE (state = 'stored' OR NOT EXISTS (SELECT FROM outbox AS o WHERE o.event_id = events.event_id)) AND {where}
)
SELECT event_id, size_bytes FROM found ORDER BY event_id LIMIT {limit};

-- name: replays_sample
-- What the first of them are.
WITH found AS {materialized} (
    SELECT event_id, received_at, source, type, key, topic, octet_length(body) AS body_bytes
    FROM events
    WHERE (state = 'stored' OR NOT EXISTS (SELECT FROM outbox AS o WHERE o.event_id = events.event_id)) AND {where}
)
SELECT * FROM found ORDER BY event_id LIMIT {limit};

-- name: replays_rows
-- Events with everything that their records are made of. The bounds let PostgreSQL leave partitions out.
SELECT {columns} FROM events WHERE event_id = ANY ($1::uuid[]) AND event_id >= $2 AND event_id <= $3;

-- name: replays_insert
-- Before anything is sent.
INSERT INTO replays (replay_id, kind, selection, to_topic, partitions, rate, events, size_bytes)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: replays_targets_insert
-- Where the target ends, or begins.
INSERT INTO replay_targets (replay_id, topic, partition, topic_id, next_offset)
SELECT $1, * FROM unnest($2::text[], $3::integer[], $4::uuid[], $5::bigint[])
ON CONFLICT (replay_id, topic, partition) DO NOTHING;

-- name: replays_get
-- One, and whether somebody works at it.
SELECT *, coalesce(lease_until >= now(), false) AS working FROM replays WHERE replay_id = $1;

-- name: replays_list
-- The newest first.
SELECT *, coalesce(lease_until >= now(), false) AS working FROM replays ORDER BY created_at DESC LIMIT $1;

-- name: replays_targets
-- Where the target is read from after a crash.
SELECT topic, partition, topic_id, next_offset FROM replay_targets WHERE replay_id = $1;

-- name: replays_take
-- Take or renew the right to work at it for $3 seconds; no row when another process has it, or when it is done.
UPDATE replays SET holder = $2, lease_until = now() + make_interval(secs => $3)
WHERE replay_id = $1 AND state <> 'done' AND (holder IS NULL OR holder = $2 OR lease_until < now())
RETURNING pause_asked;

-- name: replays_start
-- From now on something may be under way.
UPDATE replays SET state = 'running', clean = false, reason = NULL, updated_at = now(),
    rate = coalesce($3, rate), recoveries = recoveries + (NOT clean)::integer
WHERE replay_id = $1 AND holder = $2;

-- name: replays_checkpoint
-- So far everything is acknowledged. Only by the process that holds it.
UPDATE replays SET after_id = coalesce($3, after_id), after_place = coalesce($4, after_place), passed = passed + $5,
    found = found + $6, duplicates = duplicates + $7, updated_at = now()
WHERE replay_id = $1 AND holder = $2
RETURNING pause_asked;

-- name: replays_targets_move
-- In the same transaction.
UPDATE replay_targets AS t SET next_offset = n.next_offset
FROM unnest($2::text[], $3::integer[], $4::bigint[]) AS n (topic, partition, next_offset)
WHERE t.replay_id = $1 AND t.topic = n.topic AND t.partition = n.partition AND t.next_offset < n.next_offset;

-- name: replays_end
-- Give it back. A pause that was asked for has come.
UPDATE replays SET state = $3, clean = $4, reason = $5, pause_asked = false, updated_at = now(), holder = NULL,
    lease_until = NULL
WHERE replay_id = $1 AND holder = $2;

-- name: replays_expire
-- Those that are done and were touched last before $1 (ms since 1970). What is not done can still be gone on with.
DELETE FROM replays WHERE state = 'done' AND updated_at < to_timestamp($1::bigint / 1000.0);

-- name: replays_ask_pause
-- Seen by whoever works at it within a second or so.
UPDATE replays SET pause_asked = true WHERE replay_id = $1 AND lease_until >= now() RETURNING true;
