-- name: learned_open
-- From now on one secret may be learned, for $2 seconds.
INSERT INTO registrations (source, expires_at) VALUES ($1, now() + make_interval(secs => $2))
ON CONFLICT (source) DO UPDATE SET expires_at = excluded.expires_at
RETURNING expires_at;

-- name: learned_learn
-- One statement: of two hand-shakes one finds the registration. Nothing beyond $5 secrets of a source.
WITH opened AS (
    DELETE FROM registrations WHERE source = $1 AND expires_at > now()
      AND (SELECT count(*) FROM learned_secrets WHERE source = $1) < $5::bigint
    RETURNING source
)
INSERT INTO learned_secrets (source, nonce, ciphertext, key_id)
SELECT source, $2, $3, $4 FROM opened
RETURNING secret_id;

-- name: learned_all
-- The newest first, of one source or of all.
SELECT secret_id, source, nonce, ciphertext, learned_at FROM learned_secrets
WHERE $1::text IS NULL OR source = $1 ORDER BY learned_at DESC, secret_id;

-- name: learned_forget
-- It proves nothing any more.
DELETE FROM learned_secrets WHERE source = $1 AND secret_id = $2 RETURNING true;
