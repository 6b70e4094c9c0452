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
-- Events of a topic by state, and whether they were in it: those that have a position, or no row in the outbox.
SELECT e.state, e."offset" IS NOT NULL OR o.event_id IS NULL AS written, count(*) AS events,
       sum(octet_length(e.body))::bigint AS size_bytes
FROM events AS e LEFT JOIN outbox AS o USING (event_id)
WHERE e.topic = $1 AND e.event_id >= $2 GROUP BY 1, 2;

-- name: rebuild_list
-- Every event that was in the topic, by partition and offset. Of several lives of a topic the one archived last is last.
-- Row and outbox row are written by one statement, and the latter goes only after Kafka's acknowledgement. So one that
-- has neither position nor outbox row was in the topic, and the archive had not come to it: it stands behind the others,
-- which had come earlier, in the order of receipt. One with an outbox row is the relay's.
INSERT INTO rebuild_events (replay_id, place, event_id, size_bytes)
SELECT $1, row_number() OVER (ORDER BY e.partition NULLS LAST, l.last_at NULLS FIRST, e.topic_id, e."offset", e.event_id),
       e.event_id, octet_length(e.body)
FROM events AS e
LEFT JOIN (SELECT topic_id, max(updated_at) AS last_at FROM archive_offsets GROUP BY topic_id) AS l USING (topic_id)
WHERE e.topic = $2 AND e.event_id >= $3
  AND (e."offset" IS NOT NULL OR NOT EXISTS (SELECT FROM outbox AS o WHERE o.event_id = e.event_id));

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
UPDATE events AS e SET state = 'stored', topic_id = $1, partition = n.partition, "offset" = n.next_offset
FROM unnest($2::uuid[], $3::integer[], $4::bigint[]) AS n (event_id, partition, next_offset)
WHERE e.event_id = n.event_id AND e.event_id >= $5 AND e.event_id <= $6;

-- name: rebuild_forget
-- The list of a rebuild that is done.
DELETE FROM rebuild_events WHERE replay_id = $1;
