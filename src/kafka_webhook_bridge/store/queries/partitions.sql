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
