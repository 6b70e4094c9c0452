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

-- name: events_waiting
-- Which of these are in the outbox.
SELECT event_id FROM outbox WHERE event_id = ANY ($1::uuid[]);

-- name: events_copies
-- Events marked as duplicates of $2, whose dedupe_key is $1. The first of all is the earliest, so they have later ids.
SELECT event_id FROM events
WHERE dedupe_key = $1 AND event_id > $2 AND duplicate_of = $2
ORDER BY event_id LIMIT $3;
