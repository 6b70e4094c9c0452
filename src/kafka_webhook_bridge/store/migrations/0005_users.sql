-- Outside users that end by themselves. Kafka has nothing that says so; everything else about them is there.
CREATE TABLE users (
    name       text        PRIMARY KEY,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
