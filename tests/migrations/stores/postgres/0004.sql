CREATE SCHEMA fixture;
CREATE TABLE fixture.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE fixture.attempt (
    run integer NOT NULL,
    seq integer NOT NULL,
    number integer NOT NULL,
    worker integer,
    pid integer,
    host text NOT NULL,
    started_at double precision NOT NULL,
    finished_at double precision,
    outcome text,
    failure text
);
CREATE TABLE fixture.beat (
    run integer NOT NULL,
    seq integer NOT NULL,
    attempt integer NOT NULL,
    at double precision NOT NULL,
    progress text NOT NULL
);
CREATE TABLE fixture.cache_entry (
    key text NOT NULL,
    task text NOT NULL,
    scope text NOT NULL,
    mark text NOT NULL,
    of_run text NOT NULL,
    seq integer NOT NULL,
    parts text NOT NULL,
    at double precision NOT NULL,
    digest text,
    size bigint,
    value bytea
);
CREATE TABLE fixture.cache_use (
    run integer NOT NULL,
    seq integer NOT NULL,
    key text NOT NULL,
    outcome text NOT NULL,
    why text NOT NULL
);
CREATE TABLE fixture.code (
    digest text NOT NULL,
    entry text NOT NULL,
    modules integer NOT NULL,
    size bigint NOT NULL,
    manifest text NOT NULL,
    created_at double precision NOT NULL
);
CREATE TABLE fixture.code_file (
    digest text NOT NULL,
    data bytea NOT NULL
);
CREATE TABLE fixture.code_part (
    code text NOT NULL,
    file text NOT NULL
);
CREATE TABLE fixture.code_used (
    run integer NOT NULL,
    code text NOT NULL,
    at double precision NOT NULL
);
CREATE SEQUENCE fixture.code_used_run_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE fixture.code_used_run_seq OWNED BY fixture.code_used.run;
CREATE TABLE fixture.compensation (
    run integer NOT NULL,
    at double precision NOT NULL,
    state text NOT NULL,
    failure text
);
CREATE SEQUENCE fixture.compensation_run_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE fixture.compensation_run_seq OWNED BY fixture.compensation.run;
CREATE TABLE fixture.definition (
    run integer NOT NULL,
    number integer NOT NULL,
    name text NOT NULL,
    reference text NOT NULL,
    options text NOT NULL,
    fingerprint text
);
CREATE TABLE fixture.edge (
    run integer NOT NULL,
    child integer NOT NULL,
    "position" integer NOT NULL,
    parent integer,
    digest bytea,
    size bigint
);
CREATE TABLE fixture.event (
    number bigint NOT NULL,
    run integer NOT NULL,
    at double precision NOT NULL,
    kind text NOT NULL,
    seq integer,
    data text NOT NULL
);
CREATE SEQUENCE fixture.event_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE fixture.event_number_seq OWNED BY fixture.event.number;
CREATE TABLE fixture.expired (
    run integer NOT NULL,
    at double precision NOT NULL,
    cleared integer NOT NULL
);
CREATE SEQUENCE fixture.expired_run_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE fixture.expired_run_seq OWNED BY fixture.expired.run;
CREATE TABLE fixture.memo (
    run integer NOT NULL,
    seq integer NOT NULL,
    name text NOT NULL,
    at double precision NOT NULL,
    size bigint NOT NULL,
    digest text NOT NULL,
    value bytea
);
CREATE TABLE fixture.origin (
    run integer NOT NULL,
    seq integer NOT NULL,
    source text NOT NULL
);
CREATE TABLE fixture.outbox (
    run integer NOT NULL,
    seq integer NOT NULL,
    at double precision NOT NULL,
    size bigint NOT NULL,
    digest text NOT NULL,
    value bytea
);
CREATE TABLE fixture.pin (
    run integer NOT NULL,
    at double precision NOT NULL,
    by text NOT NULL,
    why text NOT NULL
);
CREATE SEQUENCE fixture.pin_run_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE fixture.pin_run_seq OWNED BY fixture.pin.run;
CREATE TABLE fixture.process (
    id text NOT NULL,
    host text NOT NULL,
    boot_id text NOT NULL,
    pid integer NOT NULL,
    start_time double precision NOT NULL,
    started_at double precision NOT NULL,
    expires_at double precision
);
CREATE TABLE fixture.queue (
    name text NOT NULL,
    settings text NOT NULL,
    tokens double precision,
    filled_at double precision
);
CREATE TABLE fixture.queued (
    id text NOT NULL,
    queue text NOT NULL,
    state integer NOT NULL,
    rank integer NOT NULL,
    key text,
    dedup text,
    submitted_at double precision NOT NULL,
    not_before double precision NOT NULL,
    started_at double precision,
    server text
);
CREATE TABLE fixture.removed (
    run integer NOT NULL,
    id text NOT NULL,
    at double precision NOT NULL
);
CREATE SEQUENCE fixture.removed_run_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE fixture.removed_run_seq OWNED BY fixture.removed.run;
CREATE TABLE fixture.run (
    number integer NOT NULL,
    id text NOT NULL COLLATE pg_catalog."C",
    workflow text NOT NULL,
    state text NOT NULL,
    token integer NOT NULL,
    owner text,
    next_seq integer NOT NULL,
    body_closed boolean NOT NULL,
    created_at double precision NOT NULL,
    started_at double precision,
    finished_at double precision,
    cancel_requested_at double precision,
    entry text NOT NULL,
    facts text NOT NULL,
    inputs text NOT NULL,
    result_inputs text NOT NULL,
    failure text,
    failure_pickled bytea,
    call bytea NOT NULL,
    result_call bytea,
    batch bigint
);
COMMENT ON TABLE fixture.run IS 'a store of dagengine';
CREATE SEQUENCE fixture.run_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE fixture.run_number_seq OWNED BY fixture.run.number;
CREATE TABLE fixture.schedule (
    name text NOT NULL,
    settings text NOT NULL,
    call text NOT NULL,
    paused boolean NOT NULL,
    next_at double precision
);
CREATE TABLE fixture.server (
    id text NOT NULL,
    process text NOT NULL,
    settings text NOT NULL,
    seen_at double precision NOT NULL
);
CREATE TABLE fixture.signal (
    run integer NOT NULL,
    number integer NOT NULL,
    id text NOT NULL,
    name text NOT NULL,
    at double precision NOT NULL,
    size bigint NOT NULL,
    digest text NOT NULL,
    taken integer,
    value bytea
);
CREATE TABLE fixture.sleeper (
    run integer NOT NULL,
    id text NOT NULL,
    latest integer NOT NULL,
    asleep integer NOT NULL,
    wake_at double precision,
    process text
);
CREATE SEQUENCE fixture.sleeper_run_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE fixture.sleeper_run_seq OWNED BY fixture.sleeper.run;
CREATE TABLE fixture.state_version (
    run integer NOT NULL,
    instance integer NOT NULL,
    after integer NOT NULL,
    size bigint NOT NULL,
    digest bytea NOT NULL,
    value bytea
);
CREATE TABLE fixture.step (
    run integer NOT NULL,
    seq integer NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL,
    definition integer NOT NULL,
    state text NOT NULL,
    handled boolean NOT NULL,
    attempts integer NOT NULL,
    finish_order bigint,
    created_at double precision NOT NULL,
    finished_at double precision,
    items_first integer,
    items_count integer,
    value_size bigint,
    value_digest bytea,
    failure text,
    failure_pickled bytea,
    call bytea NOT NULL,
    value bytea
);
CREATE TABLE fixture.unsaved_call (
    run integer NOT NULL,
    instance integer NOT NULL,
    seq integer NOT NULL
);
ALTER TABLE ONLY fixture.code_used ALTER COLUMN run SET DEFAULT nextval('fixture.code_used_run_seq'::regclass);
ALTER TABLE ONLY fixture.compensation ALTER COLUMN run SET DEFAULT nextval('fixture.compensation_run_seq'::regclass);
ALTER TABLE ONLY fixture.event ALTER COLUMN number SET DEFAULT nextval('fixture.event_number_seq'::regclass);
ALTER TABLE ONLY fixture.expired ALTER COLUMN run SET DEFAULT nextval('fixture.expired_run_seq'::regclass);
ALTER TABLE ONLY fixture.pin ALTER COLUMN run SET DEFAULT nextval('fixture.pin_run_seq'::regclass);
ALTER TABLE ONLY fixture.removed ALTER COLUMN run SET DEFAULT nextval('fixture.removed_run_seq'::regclass);
ALTER TABLE ONLY fixture.run ALTER COLUMN number SET DEFAULT nextval('fixture.run_number_seq'::regclass);
ALTER TABLE ONLY fixture.sleeper ALTER COLUMN run SET DEFAULT nextval('fixture.sleeper_run_seq'::regclass);
INSERT INTO fixture.alembic_version VALUES ('0004');
INSERT INTO fixture.attempt VALUES (1, 0, 1, 0, 13273, 'somewhere', 1795256811.926955, 1795256811.9271114, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 1, 1, 0, 13273, 'somewhere', 1795256811.9275768, 1795256811.9277706, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 2, 1, 0, 13273, 'somewhere', 1795256811.9583669, 1795256811.9585013, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 3, 1, 0, 13273, 'somewhere', 1795256811.960438, 1795256811.96056, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 4, 1, 0, 13273, 'somewhere', 1795256811.960592, 1795256811.960611, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 5, 1, 0, 13273, 'somewhere', 1795256811.9606245, 1795256811.960635, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 6, 1, 0, 13273, 'somewhere', 1795256811.9606464, 1795256811.9606557, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 7, 1, 0, 13273, 'somewhere', 1795256811.9606736, 1795256811.9606857, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 8, 1, 0, 13273, 'somewhere', 1795256811.9606996, 1795256811.9607134, 'succeeded', NULL);
INSERT INTO fixture.code VALUES ('5da91b6239e428482033609e19a89decaccc8770eebc6971660b89d203f2309e', 'tests.migrations.old_flow', 3, 1248, '{"distributions":{},"entry":"tests.migrations.old_flow","format":1,"implementation":"CPython","left_out":{},"modules":{"tests":[0,"tests","e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",0,"namespace"],"tests.migrations":[0,"tests/migrations","e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",0,"namespace"],"tests.migrations.old_flow":[0,"tests/migrations/old_flow.py","cafdc28a9ed0647fdb8e144c377a3632aabe180ee68371f410d631f9b621aa24",1248,"module"]},"python":"3.11.7","roots":["/somewhere"]}', 1795256811.852059);
INSERT INTO fixture.code_file VALUES ('cafdc28a9ed0647fdb8e144c377a3632aabe180ee68371f410d631f9b621aa24', '\x789c6d53516fda30107ef7af38e529d958c6baadd3989856ad08a1557d184c7da8aa60c8052c1c9bfa9c32f6eb778e81026da424e7f3ddf79def3e27493259226cac5b55da6ec056e0795da9bfbe7108e4ad430265601acdf7d31ea09c2f612309564a6b2cc36ec8a955596a0c08ca7760b66d9d735bee5c04a5dce6424c2cd47285208de500d7838df24bb8be1a0e6e87a3db4131198c27c5f568300642c6212f9d87a9d5e514ac01090637b1ac98784ce297d207966f4cd716472defdad93912e5e22eec4fe9512b8f1ff39fd6189c7b654dce6b5736f57a0a24b7b46f426461cb745a2edb7830b2c636a0e6262883d40145c72dcb4592244254ced6501455137c4501aa5e5b3e87347c6a193849889dcfd2de22b53052ef924bb940b3608a7dee22b4c34b5a750ee31242fc081e516205a6a967e8289ddbc6f81e4fc567f0ee3b6845fe9e170f3d01fc7075e33001b3cd43a1c1e5908b346d60eaa4596084c8b213782d1def449267f4d9d6231d90afe049ea06e320b82f9207e6bcaae4dc9fb3b589e97dc47bc8e00d5c748b6eb77bc2498f8d742f49f97f4449b5d43a129f93c444c68ec609b6e741e8343250efb94d2c39f50f5f270b57054d19057d4e464dbd87cbe06d8b12080fb30aa42ce3f405ea9d0c2aadac6375b7c7e880b68427e2dd49cc9107af6a8e905cc6c2062d9a43212b633706fa07255c66ad3b54c25e8d26650da571905fb26cb71b4be68068e5b55ca72d52dc57d521737fba0cfa7db86c4bb094a379528eab0811c92bf738c9e249c3c3e1e15ea6fce7f0b5e26e7476b2cfc7a3e1afd1cd4d76dcd39321c5c90455fe1e8cffdc4cb8e42e37fa03bf9ff8fd1aec4bfe5c7c0e9fa8a6ff61f48c06');
INSERT INTO fixture.code_part VALUES ('5da91b6239e428482033609e19a89decaccc8770eebc6971660b89d203f2309e', 'cafdc28a9ed0647fdb8e144c377a3632aabe180ee68371f410d631f9b621aa24');
INSERT INTO fixture.definition VALUES (1, 0, 'numbers', '{"module":"tests.migrations.old_flow","qualname":"numbers"}', '{}', '5ee948b9343ac12c1476e67ccd9cdfa741100d1693ed916f8eb6a362df98dca3');
INSERT INTO fixture.definition VALUES (1, 1, 'large', '{"module":"tests.migrations.old_flow","qualname":"large"}', '{}', '24306e7c034b280cc17c05a993f4b2b8c81092954c71a06777a9528d864f3b8c');
INSERT INTO fixture.definition VALUES (1, 2, 'square', '{"module":"tests.migrations.old_flow","qualname":"square"}', '{}', '6f0e3f69dca55fa78515891fe10c2beaccf1cf53b4758f1a3a11d90c11b8b21f');
INSERT INTO fixture.edge VALUES (1, 2, 0, 0, NULL, NULL);
INSERT INTO fixture.event VALUES (1, 1, 1795256811.9059913, 'run.started', NULL, '{"pid":13273,"host":"somewhere"}');
INSERT INTO fixture.process VALUES ('e05bd59a5e34120fbfad85a84e0c7ff3', 'somewhere', 'a-boot-of-then', 13273, 3354839, 1795256811.8427136, 1795256821.901811);
INSERT INTO fixture.run VALUES (1, '235d29978d05c0fb61cf87baf4e3e90d', 'old', 'running', 1, 'e05bd59a5e34120fbfad85a84e0c7ff3', 9, false, 1795256811.8979905, 1795256811.8979905, NULL, NULL, '{"module":"tests.migrations.old_flow","qualname":"old"}', '{"python":"3.11.7","host":"somewhere","cwd":"/somewhere","pid":13273,"code":"5da91b6239e428482033609e19a89decaccc8770eebc6971660b89d203f2309e"}', '[]', '[]', NULL, NULL, '\x444756310000000011000000000000008005950600000000000000297d9486942e', NULL, 2513627320024192602);
INSERT INTO fixture.step VALUES (1, 0, 'old/numbers[0]', 'task', 0, 'succeeded', false, 1, 4294967296, 1795256811.920124, 1795256811.9271114, NULL, NULL, 44, '\xfbec7cc2910c965f9f99895dfcd2a0c37877d5dc4c83b3747cb97e240019c2ab', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0685947d9486942e', '\x44475631000000001c0000000000000080059511000000000000005d94284b004b014b024b034b044b05652e');
INSERT INTO fixture.step VALUES (1, 1, 'old/large[0]', 'task', 1, 'succeeded', false, 1, 4294967297, 1795256811.920124, 1795256811.9277706, NULL, NULL, 20034, '\xb48629711712674333c8bdd47044a37f9d93b23072944086feab4a06917fa6b0', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0785947d9486942e', NULL);
INSERT INTO fixture.step VALUES (1, 3, 'old/square.map[0]/square[0]', 'task', 2, 'succeeded', false, 1, 4294967298, 1795256811.9586082, 1795256811.96056, NULL, NULL, 21, '\x51b468f88b115280d74ec8156439c4c0a8246d80e71966274260382d79ec2bab', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0085947d9486942e', '\x4447563100000000050000000000000080054b002e');
INSERT INTO fixture.step VALUES (1, 4, 'old/square.map[0]/square[1]', 'task', 2, 'succeeded', false, 1, 4294967299, 1795256811.9586082, 1795256811.960611, NULL, NULL, 21, '\x704b4979b219d7ca2c0d9c30dcd037243c752cdf37aad488832f9fac6de9e6ad', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0185947d9486942e', '\x4447563100000000050000000000000080054b012e');
INSERT INTO fixture.step VALUES (1, 5, 'old/square.map[0]/square[2]', 'task', 2, 'succeeded', false, 1, 4294967300, 1795256811.9586082, 1795256811.960635, NULL, NULL, 21, '\x90a4fe90e86e4fb92a0bafa3c58cbf82a748e246d42f43d1a5deb9bb5525dc45', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0285947d9486942e', '\x4447563100000000050000000000000080054b042e');
INSERT INTO fixture.step VALUES (1, 6, 'old/square.map[0]/square[3]', 'task', 2, 'succeeded', false, 1, 4294967301, 1795256811.9586082, 1795256811.9606557, NULL, NULL, 21, '\x6df8f86c1950b494422ff3420760d95aa566747fc0a5948ec46d148ca44c25f7', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0385947d9486942e', '\x4447563100000000050000000000000080054b092e');
INSERT INTO fixture.step VALUES (1, 7, 'old/square.map[0]/square[4]', 'task', 2, 'succeeded', false, 1, 4294967302, 1795256811.9586082, 1795256811.9606857, NULL, NULL, 21, '\xf34672a077d553aff97d8d7015e9c585b8c0d38ef1f8dd4e25b20137ff209502', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0485947d9486942e', '\x4447563100000000050000000000000080054b102e');
INSERT INTO fixture.step VALUES (1, 8, 'old/square.map[0]/square[5]', 'task', 2, 'succeeded', false, 1, 4294967303, 1795256811.9586082, 1795256811.9607134, NULL, NULL, 21, '\x9d847916a31fe1f4b23eb30ac59c97d83cfc252bd36b170a6f68e4477100cb3f', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0585947d9486942e', '\x4447563100000000050000000000000080054b192e');
INSERT INTO fixture.step VALUES (1, 2, 'old/square.map[0]', 'map', 2, 'succeeded', false, 1, 4294967304, 1795256811.9565299, 1795256811.9608533, 3, 6, 0, '\x', NULL, NULL, '\x444756310000000039000000000000008005952e000000000000008c10646167656e67696e652e76616c756573948c095f696e7075745f61749493944b008594529485947d9486942e', NULL);
SELECT pg_catalog.setval('fixture.code_used_run_seq', 1, false);
SELECT pg_catalog.setval('fixture.compensation_run_seq', 1, false);
SELECT pg_catalog.setval('fixture.event_number_seq', 1, true);
SELECT pg_catalog.setval('fixture.expired_run_seq', 1, false);
SELECT pg_catalog.setval('fixture.pin_run_seq', 1, false);
SELECT pg_catalog.setval('fixture.removed_run_seq', 1, false);
SELECT pg_catalog.setval('fixture.run_number_seq', 1, true);
SELECT pg_catalog.setval('fixture.sleeper_run_seq', 1, false);
ALTER TABLE ONLY fixture.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY fixture.attempt
    ADD CONSTRAINT attempt_pk PRIMARY KEY (run, seq, number);
ALTER TABLE ONLY fixture.beat
    ADD CONSTRAINT beat_pk PRIMARY KEY (run, seq);
ALTER TABLE ONLY fixture.cache_entry
    ADD CONSTRAINT cache_entry_pkey PRIMARY KEY (key);
ALTER TABLE ONLY fixture.cache_use
    ADD CONSTRAINT cache_use_pk PRIMARY KEY (run, seq);
ALTER TABLE ONLY fixture.code_file
    ADD CONSTRAINT code_file_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY fixture.code_part
    ADD CONSTRAINT code_part_pk PRIMARY KEY (code, file);
ALTER TABLE ONLY fixture.code
    ADD CONSTRAINT code_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY fixture.code_used
    ADD CONSTRAINT code_used_pk PRIMARY KEY (run);
ALTER TABLE ONLY fixture.compensation
    ADD CONSTRAINT compensation_pk PRIMARY KEY (run);
ALTER TABLE ONLY fixture.definition
    ADD CONSTRAINT definition_pk PRIMARY KEY (run, number);
ALTER TABLE ONLY fixture.edge
    ADD CONSTRAINT edge_pk PRIMARY KEY (run, child, "position");
ALTER TABLE ONLY fixture.event
    ADD CONSTRAINT event_pkey PRIMARY KEY (number);
ALTER TABLE ONLY fixture.expired
    ADD CONSTRAINT expired_pk PRIMARY KEY (run);
ALTER TABLE ONLY fixture.memo
    ADD CONSTRAINT memo_pk PRIMARY KEY (run, seq, name);
ALTER TABLE ONLY fixture.origin
    ADD CONSTRAINT origin_pk PRIMARY KEY (run, seq);
ALTER TABLE ONLY fixture.outbox
    ADD CONSTRAINT outbox_pk PRIMARY KEY (run, seq);
ALTER TABLE ONLY fixture.pin
    ADD CONSTRAINT pin_pk PRIMARY KEY (run);
ALTER TABLE ONLY fixture.process
    ADD CONSTRAINT process_pk PRIMARY KEY (id);
ALTER TABLE ONLY fixture.queue
    ADD CONSTRAINT queue_pkey PRIMARY KEY (name);
ALTER TABLE ONLY fixture.queued
    ADD CONSTRAINT queued_pkey PRIMARY KEY (id);
ALTER TABLE ONLY fixture.removed
    ADD CONSTRAINT removed_pk PRIMARY KEY (run);
ALTER TABLE ONLY fixture.run
    ADD CONSTRAINT run_id UNIQUE (id);
ALTER TABLE ONLY fixture.run
    ADD CONSTRAINT run_pkey PRIMARY KEY (number);
ALTER TABLE ONLY fixture.schedule
    ADD CONSTRAINT schedule_pkey PRIMARY KEY (name);
ALTER TABLE ONLY fixture.server
    ADD CONSTRAINT server_pkey PRIMARY KEY (id);
ALTER TABLE ONLY fixture.signal
    ADD CONSTRAINT signal_id UNIQUE (run, id);
ALTER TABLE ONLY fixture.signal
    ADD CONSTRAINT signal_pk PRIMARY KEY (run, number);
ALTER TABLE ONLY fixture.sleeper
    ADD CONSTRAINT sleeper_pk PRIMARY KEY (run);
ALTER TABLE ONLY fixture.state_version
    ADD CONSTRAINT state_version_pk PRIMARY KEY (run, instance, after);
ALTER TABLE ONLY fixture.step
    ADD CONSTRAINT step_key UNIQUE (run, key);
ALTER TABLE ONLY fixture.step
    ADD CONSTRAINT step_pk PRIMARY KEY (run, seq);
ALTER TABLE ONLY fixture.unsaved_call
    ADD CONSTRAINT unsaved_call_pk PRIMARY KEY (run, instance, seq);
CREATE INDEX attempt_open ON fixture.attempt USING btree (run, seq) WHERE (outcome IS NULL);
CREATE INDEX cache_entry_of_task ON fixture.cache_entry USING btree (task, at);
CREATE INDEX edge_artifact ON fixture.edge USING btree (digest) WHERE (digest IS NOT NULL);
CREATE INDEX event_run ON fixture.event USING btree (run);
CREATE INDEX queued_dedup ON fixture.queued USING btree (queue, dedup, state);
CREATE INDEX queued_due ON fixture.queued USING btree (state, queue, not_before);
CREATE INDEX queued_next ON fixture.queued USING btree (queue, state, rank, submitted_at, id);
CREATE INDEX run_created ON fixture.run USING btree (created_at);
CREATE INDEX run_state_created ON fixture.run USING btree (state, created_at);
CREATE INDEX run_workflow_created ON fixture.run USING btree (workflow, created_at);
CREATE INDEX schedule_next ON fixture.schedule USING btree (next_at);
CREATE INDEX sleeper_due ON fixture.sleeper USING btree (asleep, wake_at);
CREATE INDEX step_artifact ON fixture.step USING btree (value_digest) WHERE ((value IS NULL) AND (length(value_digest) = 32));
CREATE INDEX step_unsuccessful ON fixture.step USING btree (run, state, seq) WHERE (state = ANY (ARRAY['failed'::text, 'skipped'::text, 'cancelled'::text]));
CREATE INDEX step_waiting ON fixture.step USING btree (run, state, seq) WHERE (state = 'waiting'::text);
