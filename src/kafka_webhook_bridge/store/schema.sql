-- All migrations applied, as pg_dump shows it; made by tools/schema.py. The reasons stand in migrations/.

CREATE TABLE archive_offsets (
    topic_id uuid NOT NULL,
    partition integer NOT NULL,
    topic text NOT NULL,
    next_offset bigint NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE deliveries (
    dedupe_key bytea NOT NULL,
    event_id uuid NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    stored text,
    topic text,
    body_sha256 bytea,
    CONSTRAINT deliveries_check CHECK ((((stored IS NULL) = (topic IS NULL)) AND ((stored IS NULL) = (body_sha256 IS NULL)))),
    CONSTRAINT deliveries_stored_check CHECK ((stored = ANY (ARRAY['kafka'::text, 'outbox'::text, 'both'::text])))
)
WITH (fillfactor='60', autovacuum_vacuum_scale_factor='0.05');

CREATE TABLE events (
    event_id uuid NOT NULL,
    received_at timestamp with time zone NOT NULL,
    source text NOT NULL,
    type text NOT NULL,
    state text DEFAULT 'stored'::text NOT NULL,
    method text NOT NULL,
    path text NOT NULL,
    query text,
    content_type text,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    body_json jsonb,
    parse_error text,
    key text,
    key_bytes bytea,
    verified text NOT NULL,
    covers_body boolean NOT NULL,
    dedupe_key text,
    duplicate_of uuid,
    format text NOT NULL,
    traceparent text,
    marks jsonb,
    topic text NOT NULL,
    topic_id uuid,
    partition integer,
    "offset" bigint,
    CONSTRAINT events_format_check CHECK ((format = ANY (ARRAY['raw'::text, 'cloudevents'::text, 'envelope'::text]))),
    CONSTRAINT events_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'blocked'::text, 'quarantined'::text, 'stored'::text])))
)
PARTITION BY RANGE (event_id);

CREATE TABLE events_default (
    event_id uuid CONSTRAINT events_event_id_not_null NOT NULL,
    received_at timestamp with time zone CONSTRAINT events_received_at_not_null NOT NULL,
    source text CONSTRAINT events_source_not_null NOT NULL,
    type text CONSTRAINT events_type_not_null NOT NULL,
    state text DEFAULT 'stored'::text CONSTRAINT events_state_not_null NOT NULL,
    method text CONSTRAINT events_method_not_null NOT NULL,
    path text CONSTRAINT events_path_not_null NOT NULL,
    query text,
    content_type text,
    headers jsonb CONSTRAINT events_headers_not_null NOT NULL,
    body bytea CONSTRAINT events_body_not_null NOT NULL,
    body_json jsonb,
    parse_error text,
    key text,
    key_bytes bytea,
    verified text CONSTRAINT events_verified_not_null NOT NULL,
    covers_body boolean CONSTRAINT events_covers_body_not_null NOT NULL,
    dedupe_key text,
    duplicate_of uuid,
    format text CONSTRAINT events_format_not_null NOT NULL,
    traceparent text,
    marks jsonb,
    topic text CONSTRAINT events_topic_not_null NOT NULL,
    topic_id uuid,
    partition integer,
    "offset" bigint,
    CONSTRAINT events_format_check CHECK ((format = ANY (ARRAY['raw'::text, 'cloudevents'::text, 'envelope'::text]))),
    CONSTRAINT events_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'blocked'::text, 'quarantined'::text, 'stored'::text])))
)
WITH (toast_tuple_target='4080');

CREATE TABLE kwb_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE learned_secrets (
    secret_id uuid DEFAULT gen_random_uuid() NOT NULL,
    source text NOT NULL,
    nonce bytea NOT NULL,
    ciphertext bytea NOT NULL,
    key_id text NOT NULL,
    learned_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE leases (
    name text NOT NULL,
    holder uuid NOT NULL,
    expires_at timestamp with time zone NOT NULL
);

CREATE TABLE outbox (
    event_id uuid NOT NULL,
    source text NOT NULL,
    topic text NOT NULL,
    key bytea,
    value bytea NOT NULL,
    headers bytea NOT NULL,
    size_bytes integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    relay_after timestamp with time zone NOT NULL,
    state text DEFAULT 'waiting'::text NOT NULL,
    reason text,
    attempts integer DEFAULT 0 NOT NULL,
    lease_holder uuid,
    lease_until timestamp with time zone,
    number bigint,
    CONSTRAINT outbox_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'blocked'::text, 'quarantined'::text])))
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000', toast_tuple_target='4080');

CREATE TABLE outbox_numbers (
    source text NOT NULL,
    last bigint NOT NULL
);

CREATE TABLE rebuild_events (
    replay_id uuid NOT NULL,
    place bigint NOT NULL,
    event_id uuid NOT NULL,
    size_bytes integer NOT NULL
);

CREATE TABLE registrations (
    source text NOT NULL,
    expires_at timestamp with time zone NOT NULL
);

CREATE TABLE rejections (
    event_id uuid NOT NULL,
    source text NOT NULL,
    received_at timestamp with time zone NOT NULL,
    code text NOT NULL,
    detail text NOT NULL,
    method text NOT NULL,
    path text NOT NULL,
    query text,
    headers jsonb NOT NULL,
    withheld jsonb NOT NULL,
    body bytea NOT NULL,
    peer text NOT NULL,
    base text,
    size_bytes integer NOT NULL,
    released_at timestamp with time zone
)
WITH (toast_tuple_target='4080');

CREATE TABLE replay_targets (
    replay_id uuid NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    topic_id uuid NOT NULL,
    next_offset bigint NOT NULL
);

CREATE TABLE replays (
    replay_id uuid NOT NULL,
    kind text NOT NULL,
    state text DEFAULT 'paused'::text NOT NULL,
    clean boolean DEFAULT true NOT NULL,
    pause_asked boolean DEFAULT false NOT NULL,
    reason text,
    selection jsonb NOT NULL,
    to_topic text,
    topic_id uuid,
    partitions integer,
    rate double precision,
    events bigint NOT NULL,
    size_bytes bigint NOT NULL,
    after_id uuid,
    after_place bigint DEFAULT 0 NOT NULL,
    passed bigint DEFAULT 0 NOT NULL,
    found bigint DEFAULT 0 NOT NULL,
    duplicates bigint DEFAULT 0 NOT NULL,
    recoveries integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    holder uuid,
    lease_until timestamp with time zone,
    CONSTRAINT replays_kind_check CHECK ((kind = ANY (ARRAY['replay'::text, 'rebuild'::text]))),
    CONSTRAINT replays_state_check CHECK ((state = ANY (ARRAY['paused'::text, 'running'::text, 'done'::text])))
);

CREATE TABLE topics (
    name text NOT NULL,
    topic_id uuid NOT NULL,
    made_by text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT topics_made_by_check CHECK ((made_by = ANY (ARRAY['open_rule'::text, 'source'::text, 'outside'::text])))
);

CREATE TABLE users (
    name text NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY events ATTACH PARTITION events_default DEFAULT;

ALTER TABLE ONLY archive_offsets
    ADD CONSTRAINT archive_offsets_pkey PRIMARY KEY (topic_id, partition);

ALTER TABLE ONLY deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (dedupe_key);

ALTER TABLE ONLY events
    ADD CONSTRAINT events_pkey PRIMARY KEY (event_id);

ALTER TABLE ONLY events_default
    ADD CONSTRAINT events_default_pkey PRIMARY KEY (event_id);

ALTER TABLE ONLY kwb_migrations
    ADD CONSTRAINT kwb_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY learned_secrets
    ADD CONSTRAINT learned_secrets_pkey PRIMARY KEY (secret_id);

ALTER TABLE ONLY leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (name);

ALTER TABLE ONLY outbox_numbers
    ADD CONSTRAINT outbox_numbers_pkey PRIMARY KEY (source);

ALTER TABLE ONLY outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (event_id);

ALTER TABLE ONLY rebuild_events
    ADD CONSTRAINT rebuild_events_pkey PRIMARY KEY (replay_id, place);

ALTER TABLE ONLY registrations
    ADD CONSTRAINT registrations_pkey PRIMARY KEY (source);

ALTER TABLE ONLY rejections
    ADD CONSTRAINT rejections_pkey PRIMARY KEY (event_id);

ALTER TABLE ONLY replay_targets
    ADD CONSTRAINT replay_targets_pkey PRIMARY KEY (replay_id, topic, partition);

ALTER TABLE ONLY replays
    ADD CONSTRAINT replays_pkey PRIMARY KEY (replay_id);

ALTER TABLE ONLY topics
    ADD CONSTRAINT topics_pkey PRIMARY KEY (name);

ALTER TABLE ONLY users
    ADD CONSTRAINT users_pkey PRIMARY KEY (name);

CREATE INDEX deliveries_event_id_idx ON deliveries USING btree (event_id);

CREATE INDEX events_body_json_idx ON ONLY events USING gin (body_json jsonb_path_ops) WHERE (body_json IS NOT NULL);

CREATE INDEX events_dedupe_key_idx ON ONLY events USING btree (dedupe_key, event_id) WHERE (dedupe_key IS NOT NULL);

CREATE INDEX events_default_body_json_idx ON events_default USING gin (body_json jsonb_path_ops) WHERE (body_json IS NOT NULL);

CREATE INDEX events_default_dedupe_key_event_id_idx ON events_default USING btree (dedupe_key, event_id) WHERE (dedupe_key IS NOT NULL);

CREATE INDEX events_key_idx ON ONLY events USING btree (key, event_id) WHERE (key IS NOT NULL);

CREATE INDEX events_default_key_event_id_idx ON events_default USING btree (key, event_id) WHERE (key IS NOT NULL);

CREATE INDEX events_source_idx ON ONLY events USING btree (source, event_id);

CREATE INDEX events_default_source_event_id_idx ON events_default USING btree (source, event_id);

CREATE INDEX events_type_idx ON ONLY events USING btree (type, event_id);

CREATE INDEX events_default_type_event_id_idx ON events_default USING btree (type, event_id);

CREATE INDEX outbox_due_idx ON outbox USING btree (topic, relay_after) WHERE ((state = 'waiting'::text) AND (number IS NULL));

CREATE INDEX outbox_halted_idx ON outbox USING btree (state, topic) WHERE (state <> 'waiting'::text);

CREATE UNIQUE INDEX outbox_number_idx ON outbox USING btree (source, number) WHERE (number IS NOT NULL);

CREATE INDEX rejections_source_idx ON rejections USING btree (source, event_id) INCLUDE (size_bytes);

CREATE UNIQUE INDEX replays_rebuild_idx ON replays USING btree (to_topic) WHERE ((kind = 'rebuild'::text) AND (state <> 'done'::text));

ALTER INDEX events_body_json_idx ATTACH PARTITION events_default_body_json_idx;

ALTER INDEX events_dedupe_key_idx ATTACH PARTITION events_default_dedupe_key_event_id_idx;

ALTER INDEX events_key_idx ATTACH PARTITION events_default_key_event_id_idx;

ALTER INDEX events_pkey ATTACH PARTITION events_default_pkey;

ALTER INDEX events_source_idx ATTACH PARTITION events_default_source_event_id_idx;

ALTER INDEX events_type_idx ATTACH PARTITION events_default_type_event_id_idx;

ALTER TABLE ONLY replay_targets
    ADD CONSTRAINT replay_targets_replay_id_fkey FOREIGN KEY (replay_id) REFERENCES replays(replay_id) ON DELETE CASCADE;
