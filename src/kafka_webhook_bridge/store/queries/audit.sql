-- name: audit_rows
-- A page of an audit by event_id. Bodies stay where they are; an event that waits may have left the outbox already.
SELECT {columns}, sha256(e.body) AS body_sha256, o.state AS outbox_state,
       coalesce(starts_with(e.parse_error, 'refused'), false) AS partial,
       coalesce(e.marks @> '[["kwb_released_at"]]', false) AS released
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
