-- name: ping
-- Does it answer?
SELECT 1;

-- name: migrations_table
-- What has been applied to this database.
CREATE TABLE IF NOT EXISTS kwb_migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: migrations_lock
-- Only one process migrates; the others wait here and then find the work done.
SELECT pg_advisory_xact_lock($1);

-- name: migrations_applied
-- All of them, oldest first.
SELECT version, name, sha256 FROM kwb_migrations ORDER BY version;

-- name: migrations_record
-- In the transaction of the migration itself.
INSERT INTO kwb_migrations (version, name, sha256) VALUES ($1, $2, $3);

-- name: lease_take
-- Take or renew a lease for $3 seconds; no row when somebody else holds it.
INSERT INTO leases AS l (name, holder, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
WHERE l.holder = excluded.holder OR l.expires_at < now()
RETURNING true;

-- name: lease_release
-- Give a lease back, so that another need not wait for its end.
DELETE FROM leases WHERE name = $1 AND holder = $2;

-- name: topics_record
-- A topic that the bridge made or found. Who made it first stays on record; its id follows the real one.
INSERT INTO topics (name, topic_id, made_by) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET topic_id = excluded.topic_id WHERE topics.topic_id <> excluded.topic_id;

-- name: topics_announce
-- A topic that is about to be made.
INSERT INTO topics (name, topic_id, made_by) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING;

-- name: topics_turn
-- Making topics, one process at a time: until the end of the transaction.
SELECT pg_advisory_xact_lock($1);

-- name: topics_all
-- Every topic on record.
SELECT name, topic_id, made_by, created_at FROM topics ORDER BY name;

-- name: topics_names
-- Asked every second by the archive, to find new topics.
SELECT name FROM topics;

-- name: offsets_read
-- How far the archive has read these topics; with the ids that the names had before.
SELECT topic_id, partition, topic, next_offset FROM archive_offsets
WHERE topic_id = ANY ($1::uuid[]) OR topic = ANY ($2::text[]);

-- name: offsets_start
-- The first position of a partition. Another archiver may have been faster.
INSERT INTO archive_offsets (topic_id, partition, topic, next_offset)
SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::bigint[])
ON CONFLICT (topic_id, partition) DO NOTHING;

-- name: offsets_move
-- The fence: a position is moved only from where the writer believed it to be (rules.md 19). First in the transaction, so
-- that a second archiver waits here and then moves nothing.
UPDATE archive_offsets AS o SET next_offset = n.next_offset, updated_at = now()
FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::bigint[]) AS n (topic_id, partition, expected, next_offset)
WHERE o.topic_id = n.topic_id AND o.partition = n.partition AND o.next_offset = n.expected;

-- name: staging_there
-- Whether this connection has it already.
SELECT to_regclass('pg_temp.kwb_staging') IS NOT NULL;

-- name: staging_make
-- Rows arrive by COPY, which knows no ON CONFLICT, and are inserted from here. Lives as long as its connection.
CREATE TEMPORARY TABLE kwb_staging (LIKE events) ON COMMIT DELETE ROWS;

-- name: staging_relax
-- A copied row names neither its state nor what it duplicates; wide rows are not compressed twice.
ALTER TABLE kwb_staging ALTER state DROP NOT NULL, SET (toast_tuple_target = 4080);

-- name: staging_empty
-- Between the parts of a batch that was refused as a whole.
DELETE FROM kwb_staging;

-- name: events_store
-- One row per event, however often its record comes. A row that waited in the outbox gets its position (rules.md 4).
INSERT INTO events AS e ({columns}, state)
SELECT {columns}, 'stored' FROM kwb_staging
ON CONFLICT (event_id) DO UPDATE SET
    state = 'stored', topic = excluded.topic, topic_id = excluded.topic_id,
    partition = excluded.partition, "offset" = excluded."offset"
WHERE e."offset" IS NULL;

-- name: events_mark_duplicates
-- duplicate_of is the earliest event with the same dedupe_key within the window (rules.md 12). Computed anew for every
-- event that shares a key with the batch, because records of several partitions arrive in any order.
WITH shared AS (
    SELECT
        e.event_id,
        count(*) OVER (PARTITION BY e.dedupe_key) AS events,
        (min(e.event_id::text COLLATE "C") OVER (
            PARTITION BY e.dedupe_key ORDER BY e.received_at
            RANGE BETWEEN make_interval(days => $4) PRECEDING AND CURRENT ROW
        ))::uuid AS first_id
    FROM (SELECT DISTINCT unnest($1::text[]) AS dedupe_key) AS batch
    JOIN events AS e USING (dedupe_key)
    WHERE e.event_id >= $2 AND e.event_id < $3
)
UPDATE events AS e SET duplicate_of = nullif(s.first_id, s.event_id)
FROM shared AS s
WHERE s.events > 1 AND e.event_id = s.event_id AND e.event_id >= $2 AND e.event_id < $3
  AND e.duplicate_of IS DISTINCT FROM nullif(s.first_id, s.event_id);

-- name: events_get
-- One event with everything.
SELECT * FROM events WHERE event_id = $1;

-- name: events_search
-- The newest first. {where} is made of fixed fragments with parameters.
SELECT event_id, received_at, source, type, key, state, method, path, topic, partition, "offset",
       octet_length(body) AS body_bytes, verified, dedupe_key, duplicate_of, parse_error
FROM events
WHERE {where}
ORDER BY event_id DESC LIMIT {limit};

-- name: events_search_json
-- As events_search, but JSON containment is answered by its index before anything is sorted. Left to itself the planner
-- believes that one document in a thousand contains whatever is asked, and walks the table from its end.
WITH found AS MATERIALIZED (
    SELECT event_id, received_at, source, type, key, state, method, path, topic, partition, "offset",
           octet_length(body) AS body_bytes, verified, dedupe_key, duplicate_of, parse_error
    FROM events
    WHERE {where}
)
SELECT * FROM found ORDER BY event_id DESC LIMIT {limit};

-- name: events_copies
-- Events marked as duplicates of $2, whose dedupe_key is $1. The first of all is the earliest, so they have later ids.
SELECT event_id FROM events
WHERE dedupe_key = $1 AND event_id > $2 AND duplicate_of = $2
ORDER BY event_id LIMIT $3;

-- name: server_time_ms
-- The second clock that retention asks.
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

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

-- name: partitions_all
-- Partitions of events with their bounds as PostgreSQL writes them; the default one has none.
SELECT c.oid::regclass::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'events'::regclass;

-- name: partitions_make
-- Made beside and attached, which keeps readers and writers of other partitions going.
CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (toast_tuple_target = 4080);

-- name: partitions_lock_default
-- Attaching checks that the default partition has no such rows; nobody may add one meanwhile.
LOCK TABLE ONLY events_default IN ACCESS EXCLUSIVE MODE;

-- name: partitions_move
-- Events that came before their partition was made.
WITH moved AS (DELETE FROM events_default WHERE event_id >= $1 AND event_id < $2 RETURNING *)
INSERT INTO {name} SELECT * FROM moved;

-- name: partitions_attach
-- Takes a lock on events that lets everybody read and write.
ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}');

-- name: partitions_drop
-- Waits for readers, but not longer than lock_timeout.
DROP TABLE {name};

-- name: partitions_expire_default
-- What is too old in the default partition, so many rows at a time.
DELETE FROM events_default WHERE event_id IN (
    SELECT event_id FROM events_default WHERE event_id < $1 ORDER BY event_id LIMIT $2
);

-- name: partitions_default_ids
-- The ids within the window that lie in the default partition, first and last.
SELECT min(event_id::text COLLATE "C") AS first_id, max(event_id::text COLLATE "C") AS last_id
FROM events_default WHERE event_id >= $1 AND event_id < $2;

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
-- name: replays_count
-- Up to {limit} of the events that a replay selects, by state and topic.
WITH found AS {materialized} (
    SELECT event_id, state, topic, octet_length(body) AS size_bytes FROM events WHERE {where}
), page AS (
    SELECT * FROM found ORDER BY event_id LIMIT {limit}
)
SELECT state, topic, count(*) AS events, sum(size_bytes)::bigint AS size_bytes,
       min(event_id::text COLLATE "C")::uuid AS first_id, max(event_id::text COLLATE "C")::uuid AS last_id
FROM page GROUP BY state, topic;

-- name: replays_page
-- The next of them that Kafka has acknowledged, the oldest first. What they hold is read apart, as much as fits.
WITH found AS {materialized} (
    SELECT event_id, octet_length(body) AS size_bytes FROM events WHERE state = 'stored' AND {where}
)
SELECT event_id, size_bytes FROM found ORDER BY event_id LIMIT {limit};

-- name: replays_sample
-- What the first of them are.
WITH found AS {materialized} (
    SELECT event_id, received_at, source, type, key, topic, octet_length(body) AS body_bytes
    FROM events WHERE state = 'stored' AND {where}
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

-- name: replays_ask_pause
-- Seen by whoever works at it within a second or so.
UPDATE replays SET pause_asked = true WHERE replay_id = $1 AND lease_until >= now() RETURNING true;

-- name: rebuild_open
-- The rebuild of a topic that is not done.
SELECT replay_id FROM replays WHERE kind = 'rebuild' AND to_topic = $1 AND state <> 'done';

-- name: rebuild_partitions
-- As many as the topic had in any of its lives.
SELECT greatest(
    (SELECT max(partition) + 1 FROM archive_offsets WHERE topic = $1),
    (SELECT max(partition) + 1 FROM events WHERE topic = $1 AND "offset" IS NOT NULL)
);

-- name: rebuild_count
-- Events of a topic by state; those without a position wait in the outbox.
SELECT state, "offset" IS NOT NULL AS placed, count(*) AS events, sum(octet_length(body))::bigint AS size_bytes
FROM events WHERE topic = $1 AND event_id >= $2 GROUP BY 1, 2;

-- name: rebuild_list
-- Every event that had a position, by partition and offset. Of several lives of a topic the one archived last is last.
INSERT INTO rebuild_events (replay_id, place, event_id, size_bytes)
SELECT $1, row_number() OVER (ORDER BY e.partition, l.last_at NULLS FIRST, e.topic_id, e."offset"),
       e.event_id, octet_length(e.body)
FROM events AS e
LEFT JOIN (SELECT topic_id, max(updated_at) AS last_at FROM archive_offsets GROUP BY topic_id) AS l USING (topic_id)
WHERE e.topic = $2 AND e.event_id >= $3 AND e."offset" IS NOT NULL;

-- name: rebuild_made
-- The topic's new life.
UPDATE replays SET topic_id = $3 WHERE replay_id = $1 AND holder = $2;

-- name: rebuild_page
-- What is written next.
SELECT place, event_id, size_bytes FROM rebuild_events
WHERE replay_id = $1 AND place > $2 ORDER BY place LIMIT $3;

-- name: rebuild_pass
-- The archive need not read what the rebuild wrote: a position inside a run of its records moves to the end of the run.
UPDATE archive_offsets AS o SET next_offset = n.run_end, updated_at = now()
FROM unnest($2::integer[], $3::bigint[], $4::bigint[]) AS n (partition, run_start, run_end)
WHERE o.topic_id = $1 AND o.partition = n.partition AND o.next_offset >= n.run_start AND o.next_offset < n.run_end;

-- name: rebuild_place
-- Where the events are now.
UPDATE events AS e SET topic_id = $1, partition = n.partition, "offset" = n.next_offset
FROM unnest($2::uuid[], $3::integer[], $4::bigint[]) AS n (event_id, partition, next_offset)
WHERE e.event_id = n.event_id AND e.event_id >= $5 AND e.event_id <= $6;

-- name: rebuild_forget
-- The list of a rebuild that is done.
DELETE FROM rebuild_events WHERE replay_id = $1;
-- name: audit_rows
-- A page of an audit by event_id. Bodies stay where they are; an event that waits may have left the outbox already.
SELECT e.event_id, e.source, sha256(e.body) AS body_sha256, e.topic, e.topic_id, e.partition, e."offset",
       o.state AS outbox_state, coalesce(e.marks @> '[["kwb_released_at"]]', false) AS released
FROM {events} LEFT JOIN outbox AS o ON o.event_id = e.event_id
WHERE {where}
ORDER BY e.event_id LIMIT {limit};

-- name: audit_waiting
-- How many events received before $1 the relay still has to send; counted up to $2.
SELECT count(*) FROM (
    SELECT FROM outbox WHERE state = 'waiting' AND event_id < $1 LIMIT $2
) AS waiting;

-- name: reconcile_rows
-- What comes next in the order of ids and is in Kafka, up to $2.
SELECT event_id, topic, topic_id, partition, "offset" FROM events
WHERE event_id > $1 AND event_id < $2 AND "offset" IS NOT NULL
ORDER BY event_id LIMIT $3;

-- name: reconcile_topics
-- What the archive follows, and has followed.
SELECT DISTINCT topic FROM archive_offsets;

-- name: reconcile_known
-- Which of these have a row.
-- The bounds leave out partitions, which no array does.
SELECT e.event_id FROM unnest($1::uuid[]) AS asked (event_id) JOIN events AS e USING (event_id)
WHERE e.event_id >= $2 AND e.event_id <= $3;
