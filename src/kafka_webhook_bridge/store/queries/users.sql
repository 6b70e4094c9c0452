-- name: users_turn
-- Changing the user of this number, one process at a time: until the connection ends or gives it back.
SELECT pg_try_advisory_lock($1);

-- name: users_turn_over
-- Give it back.
SELECT pg_advisory_unlock($1);

-- name: users_put
-- The user of this name ends then, whatever was said before.
INSERT INTO users (name, expires_at) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET expires_at = excluded.expires_at, created_at = now();

-- name: users_forget
-- It ends no more.
DELETE FROM users WHERE name = $1;

-- name: users_ends
-- All that end.
SELECT name, expires_at FROM users ORDER BY expires_at, name;

-- name: users_ended
-- Those whose time is over.
SELECT name, expires_at FROM users WHERE expires_at <= now() ORDER BY expires_at, name;

-- name: users_forget_ended
-- As it was read: not what was written since.
DELETE FROM users WHERE name = $1 AND expires_at = $2;
