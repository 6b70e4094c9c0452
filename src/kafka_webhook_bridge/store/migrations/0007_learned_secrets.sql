-- Secrets that a sender gives by a hand-shake (rules.md 30), encrypted with a key that PostgreSQL never sees. One is taken
-- only while an operator has a registration open, which ends with it or by time.
CREATE TABLE registrations (
    source     text        PRIMARY KEY,
    expires_at timestamptz NOT NULL
);

CREATE TABLE learned_secrets (
    secret_id  uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    source     text        NOT NULL,
    nonce      bytea       NOT NULL,
    ciphertext bytea       NOT NULL,  -- AES-256-GCM; the source's name is authenticated with it
    key_id     text        NOT NULL,  -- tells which key is needed
    learned_at timestamptz NOT NULL DEFAULT now()
);
