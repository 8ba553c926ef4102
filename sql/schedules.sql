-- Schedules: jobs that recur. They can be created by hand after schema.sql and functions.sql, as often as
-- you like; `reactor migrate up` runs the same text.
--
-- Applications manage them by INSERT, UPDATE and DELETE of rows of reactor.schedules, in any language. The
-- instances make the occurrences: shortly before each is due, one of them inserts its job into jobs, with
-- schedule_id and occurrence_at. The row of the schedule says how far that has come, and is updated by the
-- same commit: so each occurrence is made once, whoever dies, and whenever.
--
-- A change acts at once, in its own transaction, on all jobs of the schedule that were not claimed: see
-- reactor.schedule_changed. Whoever changes a schedule needs SELECT, UPDATE and DELETE on jobs for that,
-- and SELECT on reactor.deployment and reactor.retries.

-- Below, "jobs" means the table of the deployment, wherever the search path of the caller leads.
SELECT pg_catalog.set_config('search_path', pg_catalog.format('%I, pg_temp', jobs_schema), false)
  FROM reactor.deployment;

CREATE TABLE IF NOT EXISTS reactor.schedules (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            text NOT NULL UNIQUE,

    -- When it recurs: one of the two. cron has five fields, or six with seconds in front. every is
    -- counted from start_at or, without one, from created_at.
    cron            text,
    every           interval,
    -- The zone of cron, and of {{fire_at}}: a name of the IANA database.
    zone            text NOT NULL DEFAULT 'UTC',
    -- No occurrence before start_at, and none at end_at or later.
    start_at        timestamptz,
    end_at          timestamptz,
    -- Each occurrence fires up to this much later. How much depends only on the schedule and the
    -- occurrence.
    jitter          interval NOT NULL DEFAULT '0',
    -- A paused schedule has no occurrences; those of the pause are not made up for.
    paused          boolean NOT NULL DEFAULT false,

    -- What happens to an occurrence while a job of an earlier one waits to be claimed: allow or skip.
    overlap         text NOT NULL DEFAULT 'allow',
    -- What happens to occurrences that are more than 10 seconds late because of an outage: skip, once (of those
    -- that are not jobs yet only the latest is made) or all (those of catch_up_window are made).
    catch_up        text NOT NULL DEFAULT 'once',
    catch_up_window interval NOT NULL DEFAULT '1 day',
    -- expires_at of the jobs is this much after their fire_at. NULL: they do not expire.
    max_lateness    interval,

    -- The message, as in jobs. In topic, payload and the values of headers, {{fire_at}} stands for the
    -- time of the occurrence by RFC 3339, {{fire_at_unix}} for its seconds since 1970, and {{schedule}}
    -- for name.
    topic            text NOT NULL,
    payload          text NOT NULL DEFAULT '',
    payload_bytes    bytea,
    qos              smallint,
    retain           boolean NOT NULL DEFAULT false,
    content_type     text,
    response_topic   text,
    correlation_data bytea,
    headers          jsonb,
    ordering_key     text,

    -- Of reactor; what others write here is ignored.

    -- Why it has no occurrences, in words; NULL: nothing is wrong.
    problem         text,
    -- The latest occurrence that was made, and the first that was not yet.
    last_at         timestamptz,
    next_at         timestamptz,
    -- How many occurrences were not made because of overlap.
    overlapped      bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- Every occurrence up to here has been made, or will never be.
    decided_until   timestamptz NOT NULL DEFAULT now(),
    -- When an instance has to look at it next: -infinity: at once, infinity: when it is changed.
    look_at         timestamptz NOT NULL DEFAULT '-infinity',
    -- Instances raise it with each update of theirs; so a program that writes back a whole row that it
    -- has read is recognized as somebody else.
    step            bigint NOT NULL DEFAULT 0,

    CONSTRAINT "name must be 1 to 255 bytes long, without control characters"
        CHECK (octet_length(name) BETWEEN 1 AND 255 AND name !~ '[\u0001-\u001F\u007F-\u009F]'),
    CONSTRAINT "either cron or every must be given, and not both"
        CHECK ((cron IS NULL) <> (every IS NULL)),
    CONSTRAINT "cron must be 1 to 1000 bytes long"
        CHECK (octet_length(cron) BETWEEN 1 AND 1000),
    -- A month has no length. For the same time every day or month, in a zone, there is cron.
    CONSTRAINT "every must be 1 second to 366 days, in whole seconds"
        CHECK (extract(month FROM every) = 0::numeric AND extract(year FROM every) = 0::numeric
               AND extract(epoch FROM every) BETWEEN 1::numeric AND 31622400::numeric AND extract(epoch FROM every) % 1::numeric = 0::numeric),
    CONSTRAINT "zone must be 1 to 100 bytes long"
        CHECK (octet_length(zone) BETWEEN 1 AND 100),
    CONSTRAINT "start_at must be before end_at, and both finite"
        CHECK (isfinite(start_at) IS NOT FALSE AND isfinite(end_at) IS NOT FALSE AND (start_at < end_at) IS NOT FALSE),
    CONSTRAINT "jitter must be 0 to 1 day"
        CHECK (jitter BETWEEN interval '0' AND interval '1 day'),
    CONSTRAINT "overlap must be allow or skip"
        CHECK (overlap = ANY ('{allow,skip}'::text[])),
    CONSTRAINT "catch_up must be skip, once or all"
        CHECK (catch_up = ANY ('{skip,once,all}'::text[])),
    CONSTRAINT "catch_up_window must be 1 second to 31 days"
        CHECK (catch_up_window BETWEEN interval '1 second' AND interval '31 days'),
    CONSTRAINT "max_lateness must be 1 second to 366 days"
        CHECK (max_lateness BETWEEN interval '1 second' AND interval '366 days')
)
-- The state changes every ten seconds for a schedule that ticks each second.
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

-- The instances ask for the smallest each second: the cost follows what is due, and not how many
-- schedules there are.
CREATE INDEX IF NOT EXISTS schedules_look ON reactor.schedules (look_at);

-- What makes a message valid is the same as in jobs: a rule that differs is exchanged. As in schema.sql, a
-- rule is made and compared where only PostgreSQL's own functions are found.
DO $$
DECLARE
    home pg_catalog.name := pg_catalog.current_schema(); -- the search path was set above
    rule record;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    FOR rule IN
        SELECT conname, pg_get_expr(conbin, conrelid) AS condition FROM pg_constraint
         WHERE conrelid = to_regclass(format('%I.jobs', home)) AND conname = ANY (ARRAY[
               'topic must be 1 to 65535 bytes long', 'topic must not contain the wildcards + or #', 'topic must not contain control or non-characters',
               'payload and payload_bytes exclude each other', 'qos must be 0, 1 or 2', 'content_type must be 1 to 255 bytes, no control characters',
               'response_topic must be a topic without wildcards', 'correlation_data must be at most 65535 bytes long',
               'headers must be a JSON object of strings, at most 32 KiB', 'headers must not contain job-id or control characters',
               'ordering_key must be 1 to 1024 bytes, and qos not 0', 'message must fit in an MQTT packet (256 MB)'])
    LOOP
        IF rule.condition IS DISTINCT FROM (
            SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conrelid = 'reactor.schedules'::regclass AND conname = rule.conname
        ) THEN
            EXECUTE format('ALTER TABLE reactor.schedules DROP CONSTRAINT IF EXISTS %I', rule.conname);
            -- A schedule that was accepted by the rule before cannot be updated any more, and would keep those
            -- that an instance updates together with it from making jobs. It rests until somebody corrects it.
            EXECUTE format('UPDATE reactor.schedules SET problem = %L, look_at = ''infinity'', next_at = NULL, step = step + 1 WHERE NOT (%s)', rule.conname, rule.condition);
            EXECUTE format('ALTER TABLE reactor.schedules ADD CONSTRAINT %I CHECK (%s) NOT VALID', rule.conname, rule.condition);
        END IF;
    END LOOP;
    PERFORM set_config('search_path', format('%I, pg_temp', home), false);
END;
$$;

-- Whether a job that is late is an occurrence that its schedule leaves out (catch_up = 'skip'). One that was
-- moved, fired by hand or made afterwards (backfill) is not, and one that was refused is tried again. Whoever
-- claims jobs asks, and needs no rights on schedules.
CREATE OR REPLACE FUNCTION reactor.skips_late(its_id bigint, its_schedule bigint, its_occurrence timestamptz, its_time timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM reactor.schedules s
     WHERE s.id = its_schedule AND s.catch_up = 'skip' AND its_time BETWEEN its_occurrence AND its_occurrence + s.jitter
       AND NOT EXISTS (SELECT FROM reactor.retries r WHERE r.job_id = its_id AND r.attempts > 0);
    RETURN FOUND;
END;
$$;

-- Roles that could use reactor's tables before version 6 can use this one as well.
DO $$
DECLARE
    right_of record;
    claimant text;
BEGIN
    FOR right_of IN
        SELECT grantee, privilege_type FROM pg_class, aclexplode(relacl)
         WHERE pg_class.oid = 'reactor.in_flight'::regclass::oid AND grantee <> relowner
           AND privilege_type = ANY ('{SELECT,INSERT,UPDATE,DELETE}'::text[])
    LOOP
        claimant := CASE WHEN right_of.grantee = 0::oid THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(right_of.grantee)::text) END;
        EXECUTE 'GRANT ' || right_of.privilege_type || ' ON reactor.schedules TO ' || claimant;
        -- Where PUBLIC may not execute new functions, roles that claim jobs may execute this one.
        IF right_of.privilege_type = 'INSERT' THEN
            EXECUTE 'GRANT EXECUTE ON FUNCTION reactor.skips_late(bigint, bigint, timestamptz, timestamptz) TO ' || claimant;
        END IF;
    END LOOP;
END;
$$;

-- Replaces the placeholders of a text. The name comes last, as it may contain a placeholder.
CREATE OR REPLACE FUNCTION reactor.fill_in(template text, schedule text, at timestamptz, zone text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    there   timestamp;
    minutes integer; -- east of Greenwich
BEGIN
    IF template IS NULL OR strpos(template, '{{') = 0 THEN
        RETURN template;
    END IF;
    there := at AT TIME ZONE zone;
    minutes := (extract(epoch FROM there - (at AT TIME ZONE 'UTC')) / 60)::integer;
    template := replace(template, '{{fire_at}}', to_char(there, 'YYYY-MM-DD"T"HH24:MI:SS')
        || CASE WHEN extract(microseconds FROM there) % 1000000 = 0 THEN '' ELSE rtrim(to_char(there, '.US'), '0') END
        || CASE WHEN minutes = 0 THEN 'Z' ELSE CASE WHEN minutes < 0 THEN '-' ELSE '+' END || to_char(abs(minutes) / 60, 'FM00') || ':' || to_char(abs(minutes) % 60, 'FM00') END);
    template := replace(template, '{{fire_at_unix}}', floor(extract(epoch FROM at))::bigint::text);
    RETURN replace(template, '{{schedule}}', schedule);
END;
$$;

CREATE OR REPLACE FUNCTION reactor.fill_in(template jsonb, schedule text, at timestamptz, zone text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT jsonb_object_agg(key, reactor.fill_in(value, schedule, at, zone)) FROM jsonb_each_text(template)), template)
$$;

-- Inserts the jobs of occurrences, and returns their ids. An occurrence that is NULL is a run beside the
-- schedule, for the time at which it fires. The schedules are given by their places (ctid), which do not
-- change as the caller has locked them: a search by id would walk all versions that an old snapshot keeps.
CREATE OR REPLACE FUNCTION reactor.make_jobs(places tid[], occurrences timestamptz[], fire_at timestamptz[]) RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY EXECUTE format('
        INSERT INTO %I.jobs (topic, payload, headers, payload_bytes, qos, retain, content_type, response_topic, correlation_data, ordering_key,
                             fire_at, expires_at, schedule_id, occurrence_at)
        SELECT reactor.fill_in(topic, name, coalesce(at, fire), zone), reactor.fill_in(payload, name, coalesce(at, fire), zone), reactor.fill_in(headers, name, coalesce(at, fire), zone),
               payload_bytes, qos, retain, content_type, response_topic, correlation_data, ordering_key, fire, fire + max_lateness, s.id, at
          FROM unnest($1, $2, $3) AS made (place, at, fire) JOIN reactor.schedules s ON s.ctid = place
         ORDER BY fire, s.id RETURNING id', (SELECT jobs_schema FROM reactor.deployment)) USING places, occurrences, fire_at;
END;
$$;

-- Runs a schedule once, at once, beside its occurrences, also if it is paused. Returns the id of the job.
CREATE OR REPLACE FUNCTION reactor.run_schedule(name text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Locked, so that nobody deletes or changes the schedule without seeing the job.
    place tid := (SELECT ctid FROM reactor.schedules s WHERE s.name = run_schedule.name FOR SHARE);
BEGIN
    IF place IS NULL THEN
        RAISE EXCEPTION 'there is no schedule %', quote_literal(name) USING ERRCODE = 'no_data_found', HINT = 'SELECT name FROM reactor.schedules lists them';
    END IF;
    RETURN (SELECT reactor.make_jobs(ARRAY[place], ARRAY[NULL]::timestamptz[], ARRAY[clock_timestamp()]));
END;
$$;

-- Keeps the unclaimed jobs of a schedule to what the schedule says now:
--
--   another message, name or max_lateness   they get it, and stay at their time
--   other times, or the pause               they are deleted; the occurrences of the new times begin now
--   DELETE                                  they are deleted, runs beside the schedule included
--
-- It runs in the transaction of the change. PostgreSQL has locked the schedule's row before: an instance
-- that makes jobs of the schedule has committed, and its jobs are seen here; or it finds the row locked,
-- and skips it. An UPDATE or DELETE of a job waits for the claim that has it, and then leaves it alone.
-- Under REPEATABLE READ the change fails with 40001 where it would have had to wait.
CREATE OR REPLACE FUNCTION reactor.schedule_changed() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs      text := (SELECT format('%I.jobs', jobs_schema) FROM reactor.deployment);
    -- Unclaimed are also those that an instance is about to give back.
    unclaimed text[] := ARRAY['NOT j.processed',
        'j.processed AND j.id = ANY (ARRAY(SELECT r.job_id FROM reactor.retries r WHERE NOT r.returned)) AND EXISTS (SELECT FROM reactor.retries r WHERE r.job_id = j.id AND r.claim = j.claim AND NOT r.returned)'];
    condition text;
    claimed   timestamptz; -- the latest occurrence that was claimed
    gone      timestamptz; -- the earliest one that was deleted
    least_one timestamptz;
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- From the transaction's time, which start_at may be.
        NEW.problem := NULL; NEW.last_at := NULL; NEW.next_at := NULL; NEW.overlapped := 0; NEW.created_at := now(); NEW.step := 0;
        NEW.decided_until := now() - interval '1 microsecond';
        NEW.look_at := CASE WHEN NEW.paused THEN 'infinity' ELSE '-infinity' END;
        RETURN NEW;
    ELSIF TG_OP = 'DELETE' THEN
        FOREACH condition IN ARRAY unclaimed LOOP
            EXECUTE 'DELETE FROM ' || jobs || ' j WHERE schedule_id = $1 AND ' || condition USING OLD.id;
        END LOOP;
        RETURN OLD;
    END IF;

    NEW.problem := OLD.problem; NEW.last_at := OLD.last_at; NEW.next_at := OLD.next_at; NEW.overlapped := OLD.overlapped; NEW.created_at := OLD.created_at;
    NEW.decided_until := OLD.decided_until; NEW.look_at := OLD.look_at; NEW.step := OLD.step;
    IF NEW IS NOT DISTINCT FROM OLD THEN
        RETURN NEW;
    END IF;

    IF (NEW.cron, NEW.every, NEW.zone, NEW.start_at, NEW.end_at, NEW.jitter, NEW.paused)
       IS NOT DISTINCT FROM (OLD.cron, OLD.every, OLD.zone, OLD.start_at, OLD.end_at, OLD.jitter, OLD.paused) THEN
        FOREACH condition IN ARRAY unclaimed LOOP
            EXECUTE 'UPDATE ' || jobs || ' j SET
                    topic = reactor.fill_in($1.topic, $1.name, coalesce(occurrence_at, fire_at), $1.zone), payload = reactor.fill_in($1.payload, $1.name, coalesce(occurrence_at, fire_at), $1.zone),
                    headers = reactor.fill_in($1.headers, $1.name, coalesce(occurrence_at, fire_at), $1.zone), payload_bytes = $1.payload_bytes, qos = $1.qos, retain = $1.retain,
                    content_type = $1.content_type, response_topic = $1.response_topic, correlation_data = $1.correlation_data, ordering_key = $1.ordering_key, expires_at = fire_at + $1.max_lateness
                 WHERE schedule_id = $1.id AND ' || condition USING NEW;
        END LOOP;
    ELSE
        FOREACH condition IN ARRAY unclaimed LOOP
            EXECUTE 'WITH gone AS (DELETE FROM ' || jobs || ' j WHERE schedule_id = $1 AND occurrence_at IS NOT NULL AND ' || condition || ' RETURNING occurrence_at)
                SELECT min(occurrence_at) FROM gone WHERE occurrence_at > $2' INTO least_one USING OLD.id, clock_timestamp() - OLD.jitter - interval '10 seconds';
            gone := least(gone, least_one);
        END LOOP;
        -- An occurrence that was claimed, some milliseconds ahead, is not made again. One that was on
        -- time, or waited for its jitter, and was deleted here, is made if the new times have it. But
        -- not one of a pause.
        EXECUTE 'SELECT max(occurrence_at) FROM ' || jobs || ' WHERE schedule_id = $1 AND processed AND occurrence_at IS NOT NULL' INTO claimed USING OLD.id;
        NEW.decided_until := greatest(claimed, least(clock_timestamp(), gone - interval '1 microsecond'));
        NEW.next_at := NULL;
    END IF;
    NEW.problem := NULL;
    NEW.look_at := CASE WHEN NEW.paused THEN 'infinity' ELSE '-infinity' END;
    RETURN NEW;
END;
$$;

CREATE OR REPLACE TRIGGER reactor_schedule_added
    BEFORE INSERT ON reactor.schedules FOR EACH ROW EXECUTE FUNCTION reactor.schedule_changed();
CREATE OR REPLACE TRIGGER reactor_schedule_changed
    BEFORE UPDATE ON reactor.schedules FOR EACH ROW WHEN (NEW.step <= OLD.step) EXECUTE FUNCTION reactor.schedule_changed();
CREATE OR REPLACE TRIGGER reactor_schedule_deleted
    BEFORE DELETE ON reactor.schedules FOR EACH ROW EXECUTE FUNCTION reactor.schedule_changed();

-- TRUNCATE calls no trigger for rows.
CREATE OR REPLACE FUNCTION reactor.schedules_truncated() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM reactor.schedules;
    RETURN NULL;
END;
$$;
CREATE OR REPLACE TRIGGER reactor_schedules_truncated
    BEFORE TRUNCATE ON reactor.schedules FOR EACH STATEMENT EXECUTE FUNCTION reactor.schedules_truncated();
