-- The tables of reactor. Runnable by hand (psql -1 -f sql/schema.sql -f sql/triggers.sql)
-- as often as you like; `reactor migrate up` runs the same text.
--
-- Applications see one table, jobs, in the first schema of their search path.
-- Everything else is ours and lives in schema reactor.

-- Finds the schema of the table jobs, or where to put it, before anything is touched:
--
--   - where reactor.deployment says, once it says something, unless the table has moved since
--   - where there is a table jobs with our triggers, or in our publications, in the search path or not:
--     one with jobs in it before an empty one, which may be a mistake of an older version
--   - where the search path leads to a table jobs that is ours
--   - else the first schema of the search path in which we may create one
--
-- but never schema reactor: for a role of that name it is first in the search path
-- ("$user"), and a table that the other roles do not find. One that an older version
-- has put there stays. A table jobs of somebody else is not touched.
DO $$
DECLARE
    -- Types, too, are looked up on the path of the caller: a domain that somebody has named
    -- like one of PostgreSQL's would check its values with his function.
    path      pg_catalog.name[] := pg_catalog.current_schemas(false);
    home      pg_catalog.name;
    was       pg_catalog.name;
    candidate pg_catalog.name;
    owner     pg_catalog.name;
    relation  pg_catalog.regclass;
    ours      boolean;
    filled    boolean;
BEGIN
    -- From here on nobody's functions and operators but PostgreSQL's.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('reactor.deployment') AND attname = 'jobs_schema') THEN
        SELECT jobs_schema INTO home FROM reactor.deployment;
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
        home := was; -- it is gone
    ELSIF was IS NOT NULL THEN
        UPDATE reactor.deployment SET jobs_schema = home;
    END IF;
    IF home IS NULL THEN
        FOREACH candidate IN ARRAY path || 'public'::name LOOP
            CONTINUE WHEN candidate ^@ 'pg_'; -- pg_temp is gone with the session
            relation := to_regclass(format('%I.jobs', candidate));
            IF relation IS NULL THEN
                IF candidate <> 'reactor' AND has_schema_privilege(candidate, 'CREATE') THEN
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
               AND (attname <> 'shard' OR attgenerated = 's'); -- a copy may have lost that
            IF NOT ours THEN
                RAISE EXCEPTION 'there is a table %.jobs already, and it is not reactor''s', quote_ident(candidate)
                    USING HINT = 'rename it, or give reactor a schema of its own, first in the search path: ALTER ROLE … SET search_path = …';
            END IF;
            -- Whose table it is, his triggers run as whoever writes it, and that is us.
            SELECT pg_get_userbyid(relowner) INTO owner FROM pg_class JOIN pg_roles r ON r.oid = relowner
             WHERE pg_class.oid = relation AND relowner <> (SELECT datdba FROM pg_database WHERE datname = current_database())
               AND NOT rolsuper
               -- A superuser is a member of all roles; that says nothing.
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
    IF home IS NULL THEN
        RAISE EXCEPTION 'role % may create tables in no schema of its search path', quote_ident(current_user)
            USING HINT = format('as owner of the database run `reactor migrate up`, or %sGRANT CREATE ON SCHEMA public TO %I and try again',
                CASE WHEN has_database_privilege(current_database(), 'CREATE') THEN ''
                     ELSE format('GRANT CREATE ON DATABASE %I TO %I, ', current_database(), current_user) END, current_user);
    END IF;
    -- What follows means this schema by "jobs". Where its owner may have made functions and
    -- operators, those win that take just the types of the arguments: below, every call and
    -- every operator has one of PostgreSQL's own for just its types.
    PERFORM set_config('search_path', format('%I, pg_temp', home), false);
END;
$$;

CREATE TABLE IF NOT EXISTS jobs (
    id           bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    -- The MQTT topic to publish to, and the message: any text, "" included.
    topic        text        NOT NULL,
    payload      text        NOT NULL DEFAULT '',
    -- When to publish, on this database's clock. In the past: at once.
    fire_at      timestamptz NOT NULL,
    -- After this instant the job is not published any more but fails as expired.
    expires_at   timestamptz,
    -- Set by the claim, a few milliseconds before fire_at. Setting it yourself
    -- cancels the job, as deleting the row does; resetting it schedules it again.
    processed    boolean     NOT NULL DEFAULT false,
    processed_at timestamptz,
    -- The hash shard, 0 … 63: instances divide the table among them by it. Part of
    -- the protocol: reactor.Shards in the Go code is the same number.
    shard        smallint    NOT NULL GENERATED ALWAYS AS ((hashint8(id) & 63)::smallint) STORED,
    -- The claim that took the row last (reactor.in_flight.token). Ids can be used again, by
    -- TRUNCATE … RESTART IDENTITY or a restored copy; this tells the row that was claimed
    -- from another with its id. Nobody else has to set it.
    claim        uuid,

    -- The names are what the producer reads when a row is refused.
    CONSTRAINT "topic must be 1 to 65535 bytes long"
        CHECK (octet_length(topic) BETWEEN 1 AND 65535),
    CONSTRAINT "topic must not contain the wildcards + or #"
        CHECK (position('+' IN topic) = 0 AND position('#' IN topic) = 0),
    -- MQTT lets a broker close the connection on these [MQTT 5, 1.5.4], and
    -- mosquitto does: such a row would take its neighbours down with it.
    CONSTRAINT "topic must not contain control or non-characters"
        CHECK (topic !~ '[\u0001-\u001F\u007F-\u009F\uFDD0-\uFDEF\uFFFE\uFFFF]'),
    -- An MQTT packet's remaining length ends at 268,435,455 bytes; 128 are kept for
    -- the header and the properties we add.
    CONSTRAINT "topic and payload must fit in an MQTT packet (256 MB)"
        CHECK (octet_length(topic)::bigint + octet_length(payload) <= 268435327),
    CONSTRAINT "fire_at must be finite"
        CHECK (isfinite(fire_at)),
    CONSTRAINT "expires_at must be finite"
        CHECK (isfinite(expires_at))
)
-- Every claim updates its row: the small scale factors let autovacuum follow, and
-- the room in the pages keeps the new version near the old one.
WITH (fillfactor = 80,
      autovacuum_vacuum_scale_factor = 0.02,
      autovacuum_vacuum_insert_scale_factor = 0.05,
      autovacuum_analyze_scale_factor = 0.05,
      autovacuum_vacuum_cost_delay = 0);

-- Serves every read of the near future, shard by shard in order of fire_at. id is
-- in it so that a page can end, and the next begin, within one instant: 20,000 rows
-- inserted by one statement with now() share their fire_at.
CREATE INDEX IF NOT EXISTS jobs_pending ON jobs (shard, fire_at, id) WHERE NOT processed;

ALTER TABLE jobs ADD COLUMN IF NOT EXISTS claim uuid; -- since version 3

-- Not IF NOT EXISTS, which wants CREATE on the database all the same: who owns the schema
-- may bring it up to date.
DO $$
BEGIN
    IF pg_catalog.to_regnamespace('reactor') IS NULL THEN
        CREATE SCHEMA reactor;
    END IF;
END;
$$;

-- One row: what this deployment is about, which every instance compares when it starts.
CREATE TABLE IF NOT EXISTS reactor.deployment (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- Is in the MQTT client ids of all lanes, so that two databases that share a broker
    -- do not take over each other's sessions.
    name      text NOT NULL
);
ALTER TABLE reactor.deployment
    ALTER COLUMN name SET DEFAULT left(replace(gen_random_uuid()::text, '-', ''), 8), -- md5() is missing under FIPS
    -- The database that the name was given for: the cluster's system identifier, and its
    -- oid. A copy in another cluster notices by it that it is one, and takes another name.
    ADD COLUMN IF NOT EXISTS system_identifier bigint,
    ADD COLUMN IF NOT EXISTS database oid,
    -- The schema of the table jobs.
    ADD COLUMN IF NOT EXISTS jobs_schema name;
-- Until version 2 the client ids came from the name and the database's oid. Those of an
-- existing deployment stay as they are.
DO $$
BEGIN
    UPDATE reactor.deployment
       SET name = substr(md5(name || (SELECT oid::text FROM pg_database WHERE datname = current_database())), 1, 8)
     WHERE jobs_schema IS NULL;
EXCEPTION WHEN OTHERS THEN
    NULL; -- no md5() here, so nothing can have run here
END;
$$;
INSERT INTO reactor.deployment DEFAULT VALUES ON CONFLICT DO NOTHING;
DO $$
DECLARE
    cluster bigint; -- NULL where we may not ask: some services do not let everybody
BEGIN
    IF has_function_privilege('pg_control_system()', 'EXECUTE') THEN
        SELECT system_identifier INTO cluster FROM pg_control_system();
    END IF;
    UPDATE reactor.deployment
       SET database = (SELECT oid FROM pg_database WHERE datname = current_database()),
           system_identifier = cluster,
           jobs_schema = current_schema() -- set above
     WHERE jobs_schema IS NULL;
END;
$$;

-- The living instances. id is drawn at random by each incarnation and never used
-- again, so "owner = id" is a fencing token by itself.
CREATE TABLE IF NOT EXISTS reactor.instances (
    id           bigint PRIMARY KEY,
    name         text        NOT NULL,
    -- application_name of its connections, to cut them off when it is given up.
    backends     text        NOT NULL,
    -- Takes part in the distribution of shards; false: a static consumer.
    dynamic      boolean     NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Which session the heartbeat came through: gone with it, it has died for sure.
    backend      integer     NOT NULL DEFAULT pg_backend_pid(),
    -- Since when it has been beating without a gap. Only who was steady for long
    -- enough may judge others: after an outage of the database every heartbeat looks
    -- old, and nobody is dead.
    steady_since timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
ALTER TABLE reactor.instances
    -- How it hears of new jobs at the moment: notify, wal, both or poll; '' while no feed stands.
    -- NULL: by notify, an instance of a version that knew nothing else.
    ADD COLUMN IF NOT EXISTS feed text,
    -- What is wrong with it, in words.
    ADD COLUMN IF NOT EXISTS feed_problem text,
    -- When it last looked at what the table has for them, and chose; it keeps to what it chose then
    -- until it looks again. In the far future where it has no choice.
    ADD COLUMN IF NOT EXISTS feed_chosen_at timestamptz;

CREATE TABLE IF NOT EXISTS reactor.shards (
    shard smallint PRIMARY KEY CHECK (shard BETWEEN 0 AND 63),
    owner bigint
) WITH (fillfactor = 50);
INSERT INTO reactor.shards (shard) SELECT generate_series(0, 63) ON CONFLICT DO NOTHING;

-- A lane is one MQTT session with a client id of its own. Whoever leases it raises
-- the epoch, which voids all older leases.
CREATE TABLE IF NOT EXISTS reactor.lanes (
    lane  integer PRIMARY KEY,
    owner bigint,
    epoch bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
-- What was left in the broker's session of the lane, to know it again: the session in
-- which all was sent that the journal speaks of. NULL: nothing was, or could be.
ALTER TABLE reactor.lanes ADD COLUMN IF NOT EXISTS mark text;

-- The journal: what is between the table and the broker. One row a claim, written
-- by the claim's own commit, removed when all its jobs have ended. The jobs are in
-- launch order and occupy consecutive slots (MQTT packet ids) of the lane, so that
-- progress is one number, and settling a part of a batch is cheap. A NULL is the place
-- of a job that failed and has gone back to the table, or ended.
CREATE TABLE IF NOT EXISTS reactor.in_flight (
    batch      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane       integer     NOT NULL,
    -- The lease it was claimed under, for the record.
    epoch      bigint      NOT NULL,
    -- Names the claim, here and in the rows that it took: to find out whether a commit with
    -- an unknown outcome happened, and to know those rows again. Batch numbers repeat where
    -- a failover loses the last commits; tokens don't.
    token      uuid        NOT NULL,
    qos        smallint    NOT NULL,
    first_slot integer     NOT NULL,
    -- How many, from the front, will not be published again. At QoS 2: the broker has
    -- received them, and may be told to release them.
    settled    integer     NOT NULL DEFAULT 0,
    -- Changes when the broker loses the session: what was said of an earlier round,
    -- and what a lost connection is still about to say, is void.
    round      bigint      NOT NULL DEFAULT 0,
    job_ids    bigint[]    NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
-- A batch of 512 ids stays in its page, uncompressed: the row lives milliseconds.
WITH (toast_tuple_target = 8160,
      autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000,
      autovacuum_vacuum_cost_delay = 0);
CREATE INDEX IF NOT EXISTS in_flight_lane ON reactor.in_flight (lane);
-- How many slots from the lane's first unsettled one on its owner uses at most: what lies
-- beyond was never sent. NULL: by a version that kept to no such rule.
ALTER TABLE reactor.in_flight ADD COLUMN IF NOT EXISTS reach integer;

-- Jobs on their way back to the table: refused by the broker, to be tried again, or not
-- sent before a stop. They are noted here first, because an application may hold a lock on
-- the row itself, and the journal cannot wait for that.
CREATE TABLE IF NOT EXISTS reactor.retries (
    job_id   bigint PRIMARY KEY,
    attempts integer     NOT NULL, -- that count; 0: it was not sent
    retry_at timestamptz NOT NULL,
    code     smallint    NOT NULL,
    reason   text        NOT NULL
);
ALTER TABLE reactor.retries
    -- The claim that the row must still have, to be the one that this is about.
    ADD COLUMN IF NOT EXISTS claim uuid,
    -- False while the row has not been made unprocessed again.
    ADD COLUMN IF NOT EXISTS returned boolean NOT NULL DEFAULT true;
CREATE INDEX IF NOT EXISTS retries_to_return ON reactor.retries (job_id) WHERE NOT returned;

-- Jobs that ended without being published, and why. To try one again:
--   UPDATE jobs SET processed = false WHERE id = …
-- A job that is claimed again leaves this table.
CREATE TABLE IF NOT EXISTS reactor.failed_jobs (
    job_id    bigint PRIMARY KEY,
    failed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts  integer     NOT NULL,
    -- The broker's MQTT reason code, 0 where it was not the broker.
    code      smallint    NOT NULL,
    reason    text        NOT NULL
);
-- The claim that failed, as in jobs.claim; NULL where the row could not even be claimed.
ALTER TABLE reactor.failed_jobs ADD COLUMN IF NOT EXISTS claim uuid;
