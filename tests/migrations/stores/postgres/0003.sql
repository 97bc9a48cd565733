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
CREATE TABLE fixture.definition (
    run integer NOT NULL,
    number integer NOT NULL,
    name text NOT NULL,
    reference text NOT NULL,
    options text NOT NULL
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
CREATE TABLE fixture.process (
    id text NOT NULL,
    host text NOT NULL,
    boot_id text NOT NULL,
    pid integer NOT NULL,
    start_time double precision NOT NULL,
    started_at double precision NOT NULL,
    expires_at double precision
);
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
ALTER TABLE ONLY fixture.event ALTER COLUMN number SET DEFAULT nextval('fixture.event_number_seq'::regclass);
ALTER TABLE ONLY fixture.run ALTER COLUMN number SET DEFAULT nextval('fixture.run_number_seq'::regclass);
INSERT INTO fixture.alembic_version VALUES ('0003');
INSERT INTO fixture.attempt VALUES (1, 0, 1, 0, 13156, 'somewhere', 1795256810.2021224, 1795256810.2023013, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 1, 1, 0, 13156, 'somewhere', 1795256810.202342, 1795256810.2024953, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 2, 1, 0, 13156, 'somewhere', 1795256810.2233431, 1795256810.2234805, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 3, 1, 0, 13156, 'somewhere', 1795256810.2254372, 1795256810.225611, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 4, 1, 0, 13156, 'somewhere', 1795256810.2267842, 1795256810.229565, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 5, 1, 0, 13156, 'somewhere', 1795256810.2300835, 1795256810.2301242, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 6, 1, 0, 13156, 'somewhere', 1795256810.230156, 1795256810.2301674, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 7, 1, 0, 13156, 'somewhere', 1795256810.2301867, 1795256810.230198, 'succeeded', NULL);
INSERT INTO fixture.attempt VALUES (1, 8, 1, 0, 13156, 'somewhere', 1795256810.2302113, 1795256810.2302232, 'succeeded', NULL);
INSERT INTO fixture.definition VALUES (1, 0, 'numbers', '{"module":"tests.migrations.old_flow","qualname":"numbers"}', '{}');
INSERT INTO fixture.definition VALUES (1, 1, 'large', '{"module":"tests.migrations.old_flow","qualname":"large"}', '{}');
INSERT INTO fixture.definition VALUES (1, 2, 'square', '{"module":"tests.migrations.old_flow","qualname":"square"}', '{}');
INSERT INTO fixture.edge VALUES (1, 2, 0, 0, NULL, NULL);
INSERT INTO fixture.event VALUES (1, 1, 1795256810.1783664, 'run.started', NULL, '{"pid":13156,"host":"somewhere"}');
INSERT INTO fixture.process VALUES ('54bba61f19cd26a964ce4f5c54b71b55', 'somewhere', 'a-boot-of-then', 13156, 3354707, 1795256810.148547, 1795256820.209813);
INSERT INTO fixture.run VALUES (1, '378aa6f7d1c4ff6c8c24e47b9717a053', 'old', 'running', 1, '54bba61f19cd26a964ce4f5c54b71b55', 9, false, 1795256810.1509368, 1795256810.1509368, NULL, NULL, '{"module":"tests.migrations.old_flow","qualname":"old"}', '{"python":"3.11.7","host":"somewhere","cwd":"/somewhere","pid":13156}', '[]', '[]', NULL, NULL, '\x444756310000000011000000000000008005950600000000000000297d9486942e', NULL, 1441750091631334521);
INSERT INTO fixture.step VALUES (1, 0, 'old/numbers[0]', 'task', 0, 'succeeded', false, 1, 4294967296, 1795256810.1790154, 1795256810.2023013, NULL, NULL, 44, '\xfbec7cc2910c965f9f99895dfcd2a0c37877d5dc4c83b3747cb97e240019c2ab', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0685947d9486942e', '\x44475631000000001c0000000000000080059511000000000000005d94284b004b014b024b034b044b05652e');
INSERT INTO fixture.step VALUES (1, 1, 'old/large[0]', 'task', 1, 'succeeded', false, 1, 4294967297, 1795256810.1790154, 1795256810.2024953, NULL, NULL, 20034, '\xb48629711712674333c8bdd47044a37f9d93b23072944086feab4a06917fa6b0', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0785947d9486942e', NULL);
INSERT INTO fixture.step VALUES (1, 3, 'old/square.map[0]/square[0]', 'task', 2, 'succeeded', false, 1, 4294967298, 1795256810.223619, 1795256810.225611, NULL, NULL, 21, '\x51b468f88b115280d74ec8156439c4c0a8246d80e71966274260382d79ec2bab', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0085947d9486942e', '\x4447563100000000050000000000000080054b002e');
INSERT INTO fixture.step VALUES (1, 4, 'old/square.map[0]/square[1]', 'task', 2, 'succeeded', false, 1, 4294967299, 1795256810.223619, 1795256810.229565, NULL, NULL, 21, '\x704b4979b219d7ca2c0d9c30dcd037243c752cdf37aad488832f9fac6de9e6ad', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0185947d9486942e', '\x4447563100000000050000000000000080054b012e');
INSERT INTO fixture.step VALUES (1, 5, 'old/square.map[0]/square[2]', 'task', 2, 'succeeded', false, 1, 4294967300, 1795256810.223619, 1795256810.2301242, NULL, NULL, 21, '\x90a4fe90e86e4fb92a0bafa3c58cbf82a748e246d42f43d1a5deb9bb5525dc45', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0285947d9486942e', '\x4447563100000000050000000000000080054b042e');
INSERT INTO fixture.step VALUES (1, 6, 'old/square.map[0]/square[3]', 'task', 2, 'succeeded', false, 1, 4294967301, 1795256810.223619, 1795256810.2301674, NULL, NULL, 21, '\x6df8f86c1950b494422ff3420760d95aa566747fc0a5948ec46d148ca44c25f7', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0385947d9486942e', '\x4447563100000000050000000000000080054b092e');
INSERT INTO fixture.step VALUES (1, 7, 'old/square.map[0]/square[4]', 'task', 2, 'succeeded', false, 1, 4294967302, 1795256810.223619, 1795256810.230198, NULL, NULL, 21, '\xf34672a077d553aff97d8d7015e9c585b8c0d38ef1f8dd4e25b20137ff209502', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0485947d9486942e', '\x4447563100000000050000000000000080054b102e');
INSERT INTO fixture.step VALUES (1, 8, 'old/square.map[0]/square[5]', 'task', 2, 'succeeded', false, 1, 4294967303, 1795256810.223619, 1795256810.2302232, NULL, NULL, 21, '\x9d847916a31fe1f4b23eb30ac59c97d83cfc252bd36b170a6f68e4477100cb3f', NULL, NULL, '\x4447563100000000140000000000000080059509000000000000004b0585947d9486942e', '\x4447563100000000050000000000000080054b192e');
INSERT INTO fixture.step VALUES (1, 2, 'old/square.map[0]', 'map', 2, 'succeeded', false, 1, 4294967304, 1795256810.2215602, 1795256810.2317233, 3, 6, 0, '\x', NULL, NULL, '\x444756310000000039000000000000008005952e000000000000008c10646167656e67696e652e76616c756573948c095f696e7075745f61749493944b008594529485947d9486942e', NULL);
SELECT pg_catalog.setval('fixture.event_number_seq', 1, true);
SELECT pg_catalog.setval('fixture.run_number_seq', 1, true);
ALTER TABLE ONLY fixture.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY fixture.attempt
    ADD CONSTRAINT attempt_pk PRIMARY KEY (run, seq, number);
ALTER TABLE ONLY fixture.definition
    ADD CONSTRAINT definition_pk PRIMARY KEY (run, number);
ALTER TABLE ONLY fixture.edge
    ADD CONSTRAINT edge_pk PRIMARY KEY (run, child, "position");
ALTER TABLE ONLY fixture.event
    ADD CONSTRAINT event_pkey PRIMARY KEY (number);
ALTER TABLE ONLY fixture.process
    ADD CONSTRAINT process_pk PRIMARY KEY (id);
ALTER TABLE ONLY fixture.run
    ADD CONSTRAINT run_id UNIQUE (id);
ALTER TABLE ONLY fixture.run
    ADD CONSTRAINT run_pkey PRIMARY KEY (number);
ALTER TABLE ONLY fixture.state_version
    ADD CONSTRAINT state_version_pk PRIMARY KEY (run, instance, after);
ALTER TABLE ONLY fixture.step
    ADD CONSTRAINT step_key UNIQUE (run, key);
ALTER TABLE ONLY fixture.step
    ADD CONSTRAINT step_pk PRIMARY KEY (run, seq);
ALTER TABLE ONLY fixture.unsaved_call
    ADD CONSTRAINT unsaved_call_pk PRIMARY KEY (run, instance, seq);
CREATE INDEX attempt_open ON fixture.attempt USING btree (run, seq) WHERE (outcome IS NULL);
CREATE INDEX event_run ON fixture.event USING btree (run);
CREATE INDEX run_created ON fixture.run USING btree (created_at);
CREATE INDEX run_state_created ON fixture.run USING btree (state, created_at);
CREATE INDEX run_workflow_created ON fixture.run USING btree (workflow, created_at);
CREATE INDEX step_unsuccessful ON fixture.step USING btree (run, state, seq) WHERE (state = ANY (ARRAY['failed'::text, 'skipped'::text, 'cancelled'::text]));
CREATE INDEX step_waiting ON fixture.step USING btree (run, state, seq) WHERE (state = 'waiting'::text);
