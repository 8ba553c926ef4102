-- The tables of reactor. They can be created by hand (psql -1 -f sql/schema.sql -f
-- sql/triggers.sql), as often as you like; `reactor migrate up` runs the same text.
--
-- Applications see one table, jobs, in the first schema of their search path. Everything else is
-- reactor's own, in schema reactor. `reactor migrate up --schema … --jobs-table …` runs this text with
-- other names in their places: see internal/naming for which words those are.

-- Finds the schema of the table jobs, or the schema to create it in, before anything is changed:
--
--   - where reactor.deployment says, if it says something and the table has not moved since
--   - where there is a table jobs with our triggers, or in our publications, in the search path
--     or not: a table with jobs before an empty one, which may be a mistake of an older version
--   - where the search path leads to a table jobs that is ours
--   - otherwise the first schema of the search path in which we may create a table; or the one that
--     was given: SET reactor.jobs_schema = '…'
--
-- but never schema reactor, or that of another deployment: it is first in the search path of a role with
-- that name ("$user"), and the other roles would not find the table. A table that an older version has created there stays.
-- A table jobs of somebody else is not changed.
DO $$
DECLARE
    -- Types are qualified as well, because they are looked up in the search path of the caller: if
    -- somebody has created a domain with the name of one of PostgreSQL's types, the domain would
    -- check its values with a function of that person.
    path      pg_catalog.name[] := pg_catalog.current_schemas(false);
    home      pg_catalog.name;
    was       pg_catalog.name;
    candidate pg_catalog.name;
    owner     pg_catalog.name;
    relation  pg_catalog.regclass;
    ours      boolean;
    filled    boolean;
    wanted    pg_catalog.name;
    named     pg_catalog.name;
    other     record;
BEGIN
    -- From here on only PostgreSQL's own functions and operators are found.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    -- A table belongs to one deployment. All deployments of a database look for theirs under one lock,
    -- until the end of the transaction ("claim" in ASCII, the same number for all): of two that want the
    -- same table at the same time the second sees that the first has it.
    PERFORM pg_advisory_xact_lock(427020085613);
    wanted := nullif(current_setting('reactor.jobs_schema', true), '');
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('reactor.deployment') AND attname = 'jobs_schema') THEN
        SELECT jobs_schema, to_jsonb(d) ->> 'jobs_table' INTO home, named FROM reactor.deployment d;
        -- Versions before 6 record no name: it is the default one, whose two parts no other name replaces.
        IF home IS NOT NULL AND coalesce(named, 'job' || 's') <> 'jobs' THEN
            RAISE EXCEPTION 'the schema % is that of a deployment with the table %.%, and not %', 'reactor', quote_ident(home), coalesce(named, 'job' || 's'), 'jobs'
                USING HINT = 'give the name of that table, or another schema for a deployment of its own';
        END IF;
        IF home IS NOT NULL AND to_regclass(format('%I.jobs', home)) IS NULL THEN
            was := home;
            home := NULL;
        END IF;
    END IF;
    IF home IS NULL THEN
        FOR candidate IN
            SELECT nspname
              FROM (SELECT tgrelid FROM pg_trigger WHERE tgfoid = to_regproc('reactor.announce_jobs')
                    UNION
                    SELECT prrelid FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid
                     WHERE pubname IN ('reactor_jobs_inserted', 'reactor_jobs_updated')) AS known (relid)
              JOIN pg_class c ON c.oid = relid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relname = 'jobs'
             GROUP BY nspname ORDER BY nspname = 'reactor', array_position(path, nspname), nspname
        LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM %I.jobs)', candidate) INTO filled;
            IF filled OR home IS NULL THEN
                home := candidate;
            END IF;
            EXIT WHEN filled;
        END LOOP;
    END IF;
    IF home IS NULL THEN
        home := was; -- the table is missing
    ELSIF was IS NOT NULL THEN
        UPDATE reactor.deployment SET jobs_schema = home;
    END IF;
    IF wanted <> home THEN
        RAISE EXCEPTION 'the deployment in schema % has its table in schema %, and not in %', 'reactor', quote_ident(home), quote_ident(wanted)
            USING HINT = 'give that schema, or another schema for a deployment of its own';
    ELSIF wanted IS NOT NULL AND to_regnamespace(quote_ident(wanted)) IS NULL THEN
        RAISE EXCEPTION 'there is no schema % for the table of jobs', quote_ident(wanted) USING HINT = format('CREATE SCHEMA %I', wanted);
    END IF;
    IF home IS NULL THEN
        FOREACH candidate IN ARRAY CASE WHEN wanted IS NULL THEN path || 'public'::name ELSE ARRAY[wanted] END LOOP
            CONTINUE WHEN candidate ^@ 'pg_'; -- pg_temp ends with the session
            relation := to_regclass(format('%I.jobs', candidate));
            IF relation IS NULL THEN
                filled := EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(format('%I.deployment', candidate))::oid AND attname = 'jobs_schema');
                IF filled AND wanted IS NOT NULL THEN
                    RAISE EXCEPTION 'the schema % holds the own tables of a deployment', quote_ident(wanted) USING HINT = 'give the table of jobs another schema';
                END IF;
                IF candidate <> 'reactor' AND NOT filled AND has_schema_privilege(candidate, 'CREATE') THEN
                    home := candidate;
                    EXIT;
                END IF;
                CONTINUE;
            END IF;
            SELECT count(*) = 7 INTO ours FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
             WHERE attrelid = relation AND relkind IN ('r', 'p') AND NOT attisdropped AND (attname, atttypid) IN (
                   ('id', 'int8'::regtype), ('topic', 'text'::regtype), ('payload', 'text'::regtype),
                   ('fire_at', 'timestamptz'::regtype), ('processed', 'bool'::regtype),
                   ('processed_at', 'timestamptz'::regtype), ('shard', 'int2'::regtype))
               AND (attname <> 'shard' OR attgenerated = 's'); -- in a copy the column may not be generated
            IF NOT ours THEN
                RAISE EXCEPTION 'there is a table %.jobs already, and it is not reactor''s', quote_ident(candidate)
                    USING ERRCODE = 'duplicate_table', HINT = 'rename it, or give reactor a schema of its own, first in the search path: ALTER ROLE … SET search_path = …';
            END IF;
            -- The triggers of that table run as the role that writes to it, which is reactor's.
            SELECT pg_get_userbyid(relowner) INTO owner FROM pg_class JOIN pg_roles r ON r.oid = relowner
             WHERE pg_class.oid = relation AND relowner <> (SELECT datdba FROM pg_database WHERE datname = current_database())
               AND NOT rolsuper
               -- A superuser is a member of all roles, so membership shows nothing.
               AND NOT CASE WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN false
                            ELSE pg_has_role(relowner, 'MEMBER') END;
            IF FOUND THEN
                RAISE EXCEPTION 'there is a table %.jobs already, and it belongs to role %, whose triggers would run as reactor', quote_ident(candidate), quote_ident(owner)
                    USING HINT = 'look at its triggers and defaults, then run ALTER TABLE … OWNER TO this role, or rename it';
            END IF;
            home := candidate;
            EXIT;
        END LOOP;
    END IF;
    IF home IS NULL AND wanted IS NOT NULL THEN
        RAISE EXCEPTION 'role % may not create a table in schema %', quote_ident(current_user), quote_ident(wanted)
            USING HINT = format('GRANT CREATE ON SCHEMA %I TO %I', wanted, current_user);
    ELSIF home IS NULL THEN
        RAISE EXCEPTION 'role % may create tables in no schema of its search path', quote_ident(current_user)
            USING HINT = format('as owner of the database run `reactor migrate up`, or %sGRANT CREATE ON SCHEMA public TO %I and try again',
                CASE WHEN has_database_privilege(current_database(), 'CREATE') THEN ''
                     ELSE format('GRANT CREATE ON DATABASE %I TO %I, ', current_database(), current_user) END, current_user);
    END IF;
    -- Does another deployment have it? That one's triggers or publications say so, or its record, if we
    -- may read that.
    FOR other IN
        SELECT n.oid, n.nspname FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relname = 'deployment' AND c.relkind = 'r' AND a.attname = 'jobs_schema' AND NOT a.attisdropped AND n.nspname <> 'reactor'
    LOOP
        SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                        WHERE t.tgrelid = to_regclass(format('%I.jobs', home))::oid AND p.pronamespace = other.oid AND p.proname = 'announce_jobs')
            OR EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                        WHERE r.prrelid = to_regclass(format('%I.jobs', home))::oid AND p.pubname IN (other.nspname || '_jobs_inserted', other.nspname || '_jobs_updated'))
          INTO filled;
        IF NOT filled AND has_schema_privilege(other.oid, 'USAGE') AND has_table_privilege(format('%I.deployment', other.nspname), 'SELECT') THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %I.deployment d WHERE d.jobs_schema = $1 AND coalesce(to_jsonb(d) ->> $2, $3) = $4)', other.nspname)
               INTO filled USING home, 'jobs_table', 'job' || 's', 'jobs';
        END IF;
        IF filled THEN
            RAISE EXCEPTION 'the table %.jobs is that of the deployment in schema %', quote_ident(home), quote_ident(other.nspname)
                USING HINT = 'give this deployment a table of its own, with --jobs-table, or use that deployment, with --schema';
        END IF;
    END LOOP;
    -- CREATE INDEX IF NOT EXISTS would take anything with the name for the index.
    FOREACH candidate IN ARRAY ARRAY['jobs_pending', 'jobs_key', 'jobs_key_fired', 'jobs_ordered', 'jobs_schedule', 'jobs_occurrence']::name[] LOOP
        relation := to_regclass(format('%I.%I', home, candidate));
        IF relation IS NOT NULL AND NOT EXISTS (SELECT FROM pg_index WHERE indexrelid = relation::oid AND indrelid = to_regclass(format('%I.jobs', home))::oid) THEN
            RAISE EXCEPTION 'there is a relation %.% already, and it is not an index of %.jobs', quote_ident(home), quote_ident(candidate), quote_ident(home) USING HINT = 'rename it';
        END IF;
    END LOOP;
    -- Below, "jobs" means the table in this schema. The schema's owner may have created functions
    -- and operators, which are preferred if they take exactly the types of the arguments: so every
    -- call and every operator below has one of PostgreSQL's own for exactly its types.
    PERFORM set_config('search_path', format('%I, pg_temp', home), false);
END;
$$;

CREATE TABLE IF NOT EXISTS jobs (
    id           bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    -- The MQTT topic to publish to, and the message: any text, "" included.
    topic        text        NOT NULL,
    payload      text        NOT NULL DEFAULT '',
    -- The time of publishing, on this database's clock. If it is in the past, the job is published
    -- at once.
    fire_at      timestamptz NOT NULL,
    -- After this instant the job is not published any more, and fails as expired.
    expires_at   timestamptz,
    -- The claim sets it, a few milliseconds before fire_at. Setting it yourself cancels the job, as
    -- deleting the row does; resetting it schedules the job again.
    processed    boolean     NOT NULL DEFAULT false,
    processed_at timestamptz,
    -- The hash shard, 0 … 63: the instances divide the table among themselves by it. It is part of
    -- the protocol: driver.Shards in the Go code is the same number.
    shard        smallint    NOT NULL GENERATED ALWAYS AS ((hashint8(id) & 63)::smallint) STORED,
    -- The claim that took the row last (reactor.in_flight.token). Ids can be used again, after
    -- TRUNCATE … RESTART IDENTITY or in a restored copy; this column tells the claimed row from
    -- another one with its id. Only reactor sets it.
    claim        uuid,

    -- The producer sees the name of the constraint when a row is refused.
    CONSTRAINT "topic must be 1 to 65535 bytes long"
        CHECK (octet_length(topic) BETWEEN 1 AND 65535),
    CONSTRAINT "topic must not contain the wildcards + or #"
        CHECK (position('+' IN topic) = 0 AND position('#' IN topic) = 0),
    -- MQTT lets a broker close the connection because of these characters [MQTT 5, 1.5.4], and
    -- mosquitto does: such a message would interrupt all others on its connection.
    CONSTRAINT "topic must not contain control or non-characters"
        CHECK (topic !~ '[\u0001-\u001F\u007F-\u009F\uFDD0-\uFDEF\uFFFE\uFFFF]'),
    -- The remaining length of an MQTT packet is at most 268,435,455 bytes; 128 are kept for the
    -- header and the properties that we add.
    CONSTRAINT "topic and payload must fit in an MQTT packet (256 MB)"
        CHECK (octet_length(topic)::bigint + octet_length(payload) <= 268435327),
    CONSTRAINT "fire_at must be finite"
        CHECK (isfinite(fire_at)),
    CONSTRAINT "expires_at must be finite"
        CHECK (isfinite(expires_at))
)
-- Every claim updates its row: the small scale factors let autovacuum keep up, and the free room in
-- the pages keeps the new version near the old one.
WITH (fillfactor = 80,
      autovacuum_vacuum_scale_factor = 0.02,
      autovacuum_vacuum_insert_scale_factor = 0.05,
      autovacuum_analyze_scale_factor = 0.05,
      autovacuum_vacuum_cost_delay = 0);

-- Serves every read of the near future, shard by shard in order of fire_at. It contains id so that
-- a page can end, and the next one begin, within one instant: 20,000 rows that one statement
-- inserts with now() have the same fire_at.
CREATE INDEX IF NOT EXISTS jobs_pending ON jobs (shard, fire_at, id) WHERE NOT processed;

ALTER TABLE jobs ADD COLUMN IF NOT EXISTS claim uuid; -- since version 3

-- Since version 6: what a message may carry beside its topic and payload, and what producers address
-- a job by. All of it is optional.
ALTER TABLE jobs
    -- A binary message, instead of payload.
    ADD COLUMN IF NOT EXISTS payload_bytes bytea,
    -- The QoS of the message, 0 to 2; NULL: that of the deployment, and never a higher one.
    ADD COLUMN IF NOT EXISTS qos smallint,
    -- The broker keeps the message for later subscribers of its topic.
    ADD COLUMN IF NOT EXISTS retain boolean NOT NULL DEFAULT false,
    -- The properties of MQTT 5 of the same names. headers is an object of strings: user properties.
    ADD COLUMN IF NOT EXISTS content_type text,
    ADD COLUMN IF NOT EXISTS response_topic text,
    ADD COLUMN IF NOT EXISTS correlation_data bytea,
    ADD COLUMN IF NOT EXISTS headers jsonb,
    -- A name of the producer's, of one unfired job at most (reactor.schedule).
    ADD COLUMN IF NOT EXISTS key text,
    -- Jobs with the same one are published one after the other, in the order of (fire_at, id): a job is
    -- claimed when those before it have ended (ordering.sql).
    ADD COLUMN IF NOT EXISTS ordering_key text,
    -- The schedule that the job is an occurrence of (reactor.schedules), and the time of the occurrence:
    -- fire_at without the jitter. It stays when fire_at is changed.
    ADD COLUMN IF NOT EXISTS schedule_id bigint,
    ADD COLUMN IF NOT EXISTS occurrence_at timestamptz;
-- Not CREATE SCHEMA IF NOT EXISTS, which requires CREATE on the database even if the schema exists:
-- the owner of the schema may bring it up to date.
DO $$
BEGIN
    IF pg_catalog.to_regnamespace('reactor') IS NULL THEN
        CREATE SCHEMA reactor;
    END IF;
END;
$$;

-- The rules for what is new. The rows that are there have none of it, so none has to be checked: NOT
-- VALID. A rule that is there with its name, and says something else, is exchanged in one statement:
-- one of an earlier text, or one that is bound to somebody's function. What a rule says is compared
-- with what the same text says in an empty table.
DO $do$
DECLARE
    home  pg_catalog.name := pg_catalog.current_schema(); -- the search path was set above
    rule  record;
    there pg_catalog.text;
    meant pg_catalog.text;
    -- The control characters, and the non-characters of the first plane: MQTT lets a broker close the
    -- connection for them, and mqttsink refuses them. Those of the other 16 planes are added below.
    forbidden pg_catalog.text := '\u0001-\u001F\u007F-\u009F\uFDD0-\uFDEF\uFFFE\uFFFF';
BEGIN
    -- A rule keeps the functions and operators that it was made with: so it is made, and compared, where
    -- only PostgreSQL's own are found.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    forbidden := forbidden || (SELECT string_agg(format('\U%sFFFE\U%1$sFFFF', lpad(to_hex(plane), 4, '0')), '' ORDER BY plane) FROM generate_series(1, 16) AS plane);
    EXECUTE format('CREATE TABLE reactor.meant (LIKE %I.jobs)', home);
    -- Each claim checks them again. So they begin with what holds for a row that has none of it.
    FOR rule IN SELECT * FROM (VALUES
        ('payload and payload_bytes exclude each other',
         'payload_bytes IS NULL OR octet_length(payload) = 0'),
        ('qos must be 0, 1 or 2',
         'qos IS NULL OR qos BETWEEN 0 AND 2'),
        ('content_type must be 1 to 255 bytes, no control characters',
         $$content_type IS NULL OR octet_length(content_type) BETWEEN 1 AND 255 AND content_type !~ '[{forbidden}]'$$),
        ('response_topic must be a topic without wildcards',
         $$response_topic IS NULL OR octet_length(response_topic) BETWEEN 1 AND 65535 AND response_topic !~ '[+#{forbidden}]'$$),
        ('correlation_data must be at most 65535 bytes long',
         'correlation_data IS NULL OR octet_length(correlation_data) <= 65535'),
        -- Its text is longer than its user properties are in the packet.
        ('headers must be a JSON object of strings, at most 32 KiB',
         $$headers IS NULL OR jsonb_typeof(headers) = 'object' AND NOT jsonb_path_exists(headers, 'strict $.* ? (@.type() <> "string")') AND octet_length(headers::text) <= 32768$$),
        -- keyvalue() makes an object of each name and its value, both of which the expression is applied
        -- to. The last argument silences the error where there is no object: the rule above says that.
        ('headers must not contain job-id or control characters',
         $$headers IS NULL OR NOT headers ? 'job-id' AND jsonb_path_exists(headers, 'strict $.keyvalue().* ? (@ like_regex "[{in json}]")', '{}', true) IS NOT TRUE$$),
        ('key must be 1 to 1024 bytes long',
         'key IS NULL OR octet_length(key) BETWEEN 1 AND 1024'),
        -- Nothing tells when the broker has got a message of QoS 0.
        ('ordering_key must be 1 to 1024 bytes, and qos not 0',
         'ordering_key IS NULL OR octet_length(ordering_key) BETWEEN 1 AND 1024 AND coalesce(qos, 2) > 0'),
        ('message must fit in an MQTT packet (256 MB)',
         'payload_bytes IS NULL AND correlation_data IS NULL AND headers IS NULL AND response_topic IS NULL OR octet_length(topic)::bigint + octet_length(payload) + coalesce(octet_length(payload_bytes), 0) + coalesce(octet_length(response_topic), 0) + coalesce(octet_length(correlation_data), 0) + coalesce(octet_length(headers::text), 0) <= 268435072'),
        -- An instance of a version before 6 publishes topic and payload, and nothing else. Its claim of a
        -- row that has more is refused, because its tokens do not begin as those of this version do:
        -- driver.NewToken in the Go code (guards.sql).
        ('reactor before version 6 of the schema cannot publish this job',
         $$claim BETWEEN '72656163-746f-0000-0000-000000000000' AND '72656163-746f-ffff-ffff-ffffffffffff' OR claim IS NULL OR NOT processed
           OR NOT retain AND payload_bytes IS NULL AND qos IS NULL AND content_type IS NULL AND response_topic IS NULL
              AND correlation_data IS NULL AND headers IS NULL AND key IS NULL AND ordering_key IS NULL$$)
        ) AS rules (name, condition)
    LOOP
        rule.condition := replace(replace(rule.condition, '{forbidden}', forbidden), '{in json}', replace(forbidden, '\', '\\'));
        EXECUTE format('ALTER TABLE reactor.meant ADD CONSTRAINT %I CHECK (%s)', rule.name, rule.condition);
        SELECT pg_get_expr(conbin, conrelid) INTO meant FROM pg_constraint WHERE conrelid = 'reactor.meant'::regclass AND conname = rule.name;
        SELECT pg_get_expr(conbin, conrelid) INTO there FROM pg_constraint WHERE conrelid = to_regclass(format('%I.jobs', home)) AND conname = rule.name;
        IF there IS DISTINCT FROM meant THEN
            EXECUTE format('ALTER TABLE %I.jobs DROP CONSTRAINT IF EXISTS %I, ADD CONSTRAINT %2$I CHECK (%3$s) NOT VALID', home, rule.name, rule.condition);
        END IF;
    END LOOP;
    DROP TABLE reactor.meant;
    PERFORM set_config('search_path', format('%I, pg_temp', home), false);
END;
$do$;

-- One unfired job has a key at most. A table with partitions cannot have such an index; there
-- reactor.schedule keeps to it, and a plain INSERT does not.
DO $$
BEGIN
    IF (SELECT relkind FROM pg_class WHERE oid = 'jobs'::regclass::oid) = 'p'::"char" THEN
        CREATE INDEX IF NOT EXISTS jobs_key ON jobs (key) WHERE NOT processed AND key IS NOT NULL;
    ELSE
        CREATE UNIQUE INDEX IF NOT EXISTS jobs_key ON jobs (key) WHERE NOT processed AND key IS NOT NULL;
    END IF;
END;
$$;
-- Answers what has become of a key. It costs only jobs that have one.
CREATE INDEX IF NOT EXISTS jobs_key_fired ON jobs (key, id) WHERE processed AND key IS NOT NULL;
-- Finds the unfired jobs of an ordering key, by its hash (ordering.sql). Its condition is written so that
-- no other index matches it, and this one no other statement: see pending in pgsource/load.go.
CREATE INDEX IF NOT EXISTS jobs_ordered ON jobs (hashtextextended(ordering_key, 0::bigint), fire_at, id) WHERE ordering_key IS NOT NULL AND coalesce(NOT processed, false);
CREATE INDEX IF NOT EXISTS jobs_schedule ON jobs (schedule_id) WHERE NOT processed AND schedule_id IS NOT NULL;
-- Finds the latest occurrence of a schedule that was claimed. It costs only jobs of schedules.
CREATE INDEX IF NOT EXISTS jobs_occurrence ON jobs (schedule_id, occurrence_at) WHERE processed AND occurrence_at IS NOT NULL;

-- One row: the identity of this deployment, which every instance compares when it starts.
CREATE TABLE IF NOT EXISTS reactor.deployment (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- It is part of the MQTT client ids of all lanes, so that two databases that use the same
    -- broker do not take over each other's sessions.
    name      text NOT NULL
);
ALTER TABLE reactor.deployment
    ALTER COLUMN name SET DEFAULT left(pg_catalog.replace(gen_random_uuid()::text, '-'::text, ''::text), 8), -- md5() is missing under FIPS
    -- The database that the name was given for: the cluster's system identifier, and the database's
    -- oid. By these a copy in another cluster recognizes that it is a copy, and takes another name.
    ADD COLUMN IF NOT EXISTS system_identifier bigint,
    ADD COLUMN IF NOT EXISTS database oid,
    -- The schema of the table jobs, and since version 6 its name.
    ADD COLUMN IF NOT EXISTS jobs_schema name,
    ADD COLUMN IF NOT EXISTS jobs_table name NOT NULL DEFAULT 'jobs';
-- Before version 3 the client ids came from the name and the database's oid. Those of an existing
-- deployment stay as they are.
DO $$
BEGIN
    UPDATE reactor.deployment
       SET name = substr(md5(name || (SELECT oid::text FROM pg_database WHERE datname = current_database())), 1, 8)
     WHERE jobs_schema IS NULL;
EXCEPTION WHEN OTHERS THEN
    NULL; -- there is no md5(), so no earlier version can have run
END;
$$;
INSERT INTO reactor.deployment DEFAULT VALUES ON CONFLICT DO NOTHING;
DO $$
DECLARE
    cluster bigint; -- NULL if this role may not read it, as on some managed services
BEGIN
    IF pg_catalog.has_function_privilege('pg_control_system()'::text, 'EXECUTE'::text) THEN
        SELECT system_identifier INTO cluster FROM pg_control_system();
    END IF;
    UPDATE reactor.deployment
       SET database = (SELECT oid FROM pg_database WHERE datname = current_database()),
           system_identifier = cluster,
           jobs_schema = current_schema() -- the search path was set above
     WHERE jobs_schema IS NULL;
END;
$$;

-- How long the range of a partition of jobs is (partitions.sql); NULL: nobody has asked reactor to
-- maintain partitions.
ALTER TABLE reactor.deployment ADD COLUMN IF NOT EXISTS partition_interval interval; -- since version 5
-- What a job that has failed for good does to those with its ordering_key: skip, they go on; block, they
-- wait until it is tried again, or its row is deleted.
ALTER TABLE reactor.deployment ADD COLUMN IF NOT EXISTS ordered_failure text NOT NULL DEFAULT 'skip' -- since version 6
    CONSTRAINT "ordered_failure must be skip or block" CHECK (ordered_failure = ANY ('{skip,block}'::text[]));
-- What becomes of jobs with an ordering_key that are more than 5 s late: oldest, they are all published in
-- their order; newest, only the last of each key that is due, and those before it are missed.
ALTER TABLE reactor.deployment ADD COLUMN IF NOT EXISTS ordered_catch_up text NOT NULL DEFAULT 'oldest' -- since version 6
    CONSTRAINT "ordered_catch_up must be oldest or newest" CHECK (ordered_catch_up = ANY ('{oldest,newest}'::text[]));

-- The living instances. Each incarnation draws its id at random, and an id is never used again, so
-- "owner = id" is a fencing token by itself.
CREATE TABLE IF NOT EXISTS reactor.instances (
    id           bigint PRIMARY KEY,
    name         text        NOT NULL,
    -- The application_name of its connections, by which others terminate them when it is deposed.
    backends     text        NOT NULL,
    -- True: it takes part in the distribution of shards; false: it has a fixed share.
    dynamic      boolean     NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The backend of the session of its heartbeats: if that is gone, the instance has died.
    backend      integer     NOT NULL DEFAULT pg_backend_pid(),
    -- Since when it has been beating without a gap. Only an instance that was steady for long
    -- enough may depose others: after an outage of the database every heartbeat looks old, and
    -- nobody is dead.
    steady_since timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
ALTER TABLE reactor.instances
    -- The feeds that it uses at the moment: notify, wal, both or poll; '' while no feed is
    -- established. NULL: an instance of a version that knew notify only.
    ADD COLUMN IF NOT EXISTS feed text,
    -- What is wrong with the feed, in words.
    ADD COLUMN IF NOT EXISTS feed_problem text,
    -- When it last checked what the table provides, and chose its feeds; it keeps that choice until
    -- it checks again. In the far future if its feed is configured and not chosen.
    ADD COLUMN IF NOT EXISTS feed_chosen_at timestamptz;
-- Since version 5. Whether it understands notifications that name their shards. NULL: an instance of
-- a version before 5, which ignores them (triggers.sql).
ALTER TABLE reactor.instances ADD COLUMN IF NOT EXISTS shard_hints boolean;
-- Since version 6. The newest version of the schema that it knows. NULL: before 6 (guards.sql).
ALTER TABLE reactor.instances ADD COLUMN IF NOT EXISTS schema_version integer;
-- Since version 7. The version of its program; the newest protocol that it speaks with other instances,
-- and the oldest that it understands (NULL: 1 and 1, reactor/driver/protocol.go); and how it is doing, for
-- `reactor status`: written with each heartbeat, and read by people only. It is json and not jsonb, which
-- would look into the texts that are in it, and could refuse a heartbeat. No index has these columns, so that
-- a heartbeat stays a HOT update.
ALTER TABLE reactor.instances
    ADD COLUMN IF NOT EXISTS version pg_catalog.text,
    ADD COLUMN IF NOT EXISTS protocol pg_catalog.int4,
    ADD COLUMN IF NOT EXISTS protocol_oldest pg_catalog.int4,
    ADD COLUMN IF NOT EXISTS snapshot pg_catalog.json;

CREATE TABLE IF NOT EXISTS reactor.shards (
    shard smallint PRIMARY KEY CHECK (shard BETWEEN 0 AND 63),
    owner bigint
) WITH (fillfactor = 50);
INSERT INTO reactor.shards (shard) SELECT generate_series(0, 63) ON CONFLICT DO NOTHING;

-- A lane is one MQTT session with a client id of its own. Each new owner raises the epoch, which
-- makes all older leases void. Epochs are times in microseconds, so that none repeats, not even
-- after a failover that lost the last commits.
CREATE TABLE IF NOT EXISTS reactor.lanes (
    lane  integer PRIMARY KEY,
    owner bigint,
    epoch bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
-- The mark of the broker's session that the journal speaks of, by which that session is recognized.
-- NULL: the session has no mark, or could not get one.
ALTER TABLE reactor.lanes ADD COLUMN IF NOT EXISTS mark text;

-- The journal: the jobs that are claimed and not settled. One row for each claim, inserted by the
-- claim's own commit, and deleted when all its jobs have ended. The jobs are in launch order and
-- occupy consecutive slots (MQTT packet ids) of the lane, so that progress is one number, and
-- settling a part of a batch is cheap. A NULL is the place of a job that failed and has gone back
-- to the table, or has ended.
CREATE TABLE IF NOT EXISTS reactor.in_flight (
    batch      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane       integer     NOT NULL,
    -- The epoch of the lease under which it was claimed; only for information.
    epoch      bigint      NOT NULL,
    -- Identifies the claim, here and in the rows that it took: it shows whether a commit with an
    -- unknown outcome happened, and which rows were claimed. Batch numbers repeat if a failover
    -- loses the last commits; tokens do not.
    token      uuid        NOT NULL,
    qos        smallint    NOT NULL,
    first_slot integer     NOT NULL,
    -- How many jobs, from the front, will not be published again. At QoS 2: the broker has received
    -- them, and may be told to release them.
    settled    integer     NOT NULL DEFAULT 0,
    -- Changes when the broker loses the session: what was recorded in an earlier round, and what a
    -- lost connection is still about to record, is void.
    round      bigint      NOT NULL DEFAULT 0,
    job_ids    bigint[]    NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
-- A batch of 512 ids stays in its page, uncompressed: the row lives for milliseconds.
WITH (toast_tuple_target = 8160,
      autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000,
      autovacuum_vacuum_cost_delay = 0);
-- How many slots, from the lane's first unsettled one on, its owner uses at most: messages beyond
-- were never sent. NULL: the batch of a version without such a bound.
ALTER TABLE reactor.in_flight ADD COLUMN IF NOT EXISTS reach integer;
-- When the last job of the batch is due. The broker may have a message before its time, to be released
-- then; a recovery waits for that even if the row of the job was deleted meanwhile. NULL: the batch
-- of a version before 5.
ALTER TABLE reactor.in_flight ADD COLUMN IF NOT EXISTS due_by timestamptz;
-- Since version 6. Those of the jobs that have an ordering key, and the hashes of their keys, in the same
-- order; NULL: none has one.
ALTER TABLE reactor.in_flight
    ADD COLUMN IF NOT EXISTS ordered_ids bigint[],
    ADD COLUMN IF NOT EXISTS ordered_keys bigint[];
-- A lane's part of the journal is read from where it starts (reactor.journal_starts). While an old
-- snapshot keeps deleted rows, the statistics say that the table is empty, and the planner takes any
-- index to be as good as any other, also for walking all of it. So the two indexes share no column:
-- "batch + 0" can be searched by this one only, and "batch" by the primary key only.
CREATE INDEX IF NOT EXISTS in_flight_lane_batch ON reactor.in_flight (lane, (batch + 0));
DROP INDEX IF EXISTS reactor.in_flight_lane; -- before version 5
CREATE INDEX IF NOT EXISTS in_flight_ordered ON reactor.in_flight (lane, (batch + 0)) WHERE ordered_ids IS NOT NULL;

-- Where the journal of a lane starts: no batch of the lane has a lower number than any of these; the
-- highest counts, and a lane without a row starts at the beginning. While an old snapshot keeps
-- deleted batches, they lie before this place, and nobody reads them. It is a table of its own with
-- new rows, and not a column of reactor.lanes, because an old snapshot keeps the earlier versions of
-- an updated row as well, and each claim would read them. How it is kept true: pgsource/journalstart.go.
CREATE TABLE IF NOT EXISTS reactor.journal_starts (
    lane  integer NOT NULL,
    batch bigint  NOT NULL,
    PRIMARY KEY (lane, batch)
);
-- Roles that could use the journal before version 5 can use this table as well.
DO $$
DECLARE
    right_of record;
BEGIN
    FOR right_of IN
        SELECT grantee, privilege_type FROM pg_class, aclexplode(relacl)
         WHERE pg_class.oid = 'reactor.in_flight'::regclass::oid AND grantee <> relowner
           AND privilege_type = ANY ('{SELECT,INSERT,UPDATE,DELETE}'::text[])
    LOOP
        EXECUTE 'GRANT ' || right_of.privilege_type || ' ON reactor.journal_starts TO '
            || CASE WHEN right_of.grantee = 0::oid THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(right_of.grantee)::text) END;
    END LOOP;
END;
$$;

-- Jobs that go back to the table: the broker refused them and they are to be tried again, or they
-- were not sent before a stop. They are noted here first, because an application may hold a lock on
-- the row itself, and the journal cannot wait for that.
CREATE TABLE IF NOT EXISTS reactor.retries (
    job_id   bigint PRIMARY KEY,
    attempts integer     NOT NULL, -- attempts that count; 0: it was not sent
    retry_at timestamptz NOT NULL,
    code     smallint    NOT NULL,
    reason   text        NOT NULL
);
ALTER TABLE reactor.retries
    -- The claim that the row must still have, to be the row that this is about.
    ADD COLUMN IF NOT EXISTS claim uuid,
    -- False until the row has been made unprocessed again.
    ADD COLUMN IF NOT EXISTS returned boolean NOT NULL DEFAULT true;
CREATE INDEX IF NOT EXISTS retries_to_return ON reactor.retries (job_id) WHERE NOT returned;
-- Since version 6. The hash of the job's ordering key; NULL: it has none.
ALTER TABLE reactor.retries ADD COLUMN IF NOT EXISTS ordering bigint;
CREATE INDEX IF NOT EXISTS retries_ordered ON reactor.retries (job_id) WHERE NOT returned AND ordering IS NOT NULL;

-- Jobs that ended without being published, with the reason. To try one again:
--   UPDATE jobs SET processed = false WHERE id = …
-- A job that is claimed again is deleted from this table.
CREATE TABLE IF NOT EXISTS reactor.failed_jobs (
    job_id    bigint PRIMARY KEY,
    failed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts  integer     NOT NULL,
    -- The MQTT reason code of the broker; 0 if the broker did not refuse it.
    code      smallint    NOT NULL,
    reason    text        NOT NULL
);
-- The claim that failed, as in jobs.claim; NULL if the row could not be claimed at all.
ALTER TABLE reactor.failed_jobs ADD COLUMN IF NOT EXISTS claim uuid;
-- How it ended: failed; expired, after its expires_at; missed, later than the deployment allows
-- (--max-lateness).
ALTER TABLE reactor.failed_jobs ADD COLUMN IF NOT EXISTS state text NOT NULL DEFAULT 'failed'; -- since version 6
-- Since version 6. Of a row that could not be claimed, which has no claim that would tell it from another
-- row with its id: its version, that is its xmin.
ALTER TABLE reactor.failed_jobs ADD COLUMN IF NOT EXISTS row_version bigint;
-- Since version 6. The hash of the ordering key of a job that was claimed; NULL: it has none, or does not
-- keep those behind it waiting.
ALTER TABLE reactor.failed_jobs ADD COLUMN IF NOT EXISTS ordering bigint;
CREATE INDEX IF NOT EXISTS failed_jobs_ordered ON reactor.failed_jobs (ordering) WHERE ordering IS NOT NULL;
