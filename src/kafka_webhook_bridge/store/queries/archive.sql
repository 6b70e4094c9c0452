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
