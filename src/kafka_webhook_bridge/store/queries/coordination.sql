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

-- name: migrations_there
-- Whether anything was ever applied.
SELECT to_regclass('kwb_migrations') IS NOT NULL;

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

-- name: topics_existed
-- Whether a topic was ever seen: one on record with the id $2 is only about to be made.
SELECT EXISTS (SELECT FROM topics WHERE name = $1 AND topic_id <> $2)
    OR EXISTS (SELECT FROM archive_offsets WHERE topic = $1);

-- name: topics_names
-- Asked every second by the archive, to find new topics.
SELECT name FROM topics;

-- name: server_time_ms
-- The second clock that retention asks.
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
