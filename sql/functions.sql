-- Functions for producers, in any language: to schedule, cancel, reschedule and fire jobs. They can be
-- created by hand after schema.sql, as often as you like; `reactor migrate up` runs the same text.
--
-- They run with the rights of their caller, which needs USAGE on schema reactor, SELECT on its tables
-- deployment, lanes, journal_starts, in_flight, retries and failed_jobs, and SELECT, INSERT, UPDATE and
-- DELETE on the table jobs.
--
-- What they answer is true when the caller's transaction commits: a row that is to be changed is locked
-- until then, and a claim leaves locked rows alone. They wait for a claim that has the row, which is a
-- matter of milliseconds. Under REPEATABLE READ a row that was claimed since the transaction began
-- makes them fail with 40001, as it does any UPDATE.

-- The types of arguments are looked up in the search path of the caller.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- Finds a job, locks its row, and tells what has become of it:
--
--   waiting    it was not claimed
--   returning  it was claimed and not published, and is about to be unprocessed again
--   firing     an instance has claimed it: it is being published, or has just been
--   fired      it was published; or somebody has marked it as processed
--   failed     it ended without being published (reactor.failed_jobs)
--   missing    there is no such row
--
-- A job in firing can still become returning or failed. By its key the job that has not fired is found, or
-- else the latest that had the key.
CREATE OR REPLACE FUNCTION reactor.find_job(job_id bigint, job_key text, OUT id bigint, OUT fire_at timestamptz, OUT state text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs      text := (SELECT format('%I.jobs', jobs_schema) FROM reactor.deployment);
    processed boolean;
    signed    uuid; -- with the token of this claim
    seen      boolean;
BEGIN
    FOR attempt IN 1 .. 100 LOOP
        -- In one statement, because the job may be claimed, or come back, between two.
        IF job_key IS NOT NULL THEN
            EXECUTE 'SELECT id FROM ((SELECT id, 1 AS place FROM ' || jobs || ' WHERE key = $1 AND NOT processed ORDER BY fire_at LIMIT 1)
                          UNION ALL (SELECT id, 2 FROM ' || jobs || ' WHERE key = $1 AND processed ORDER BY id DESC LIMIT 1)) AS named ORDER BY place LIMIT 1'
               INTO job_id USING job_key;
        END IF;
        EXECUTE 'SELECT id, fire_at, processed, claim FROM ' || jobs || ' WHERE id = $1 FOR UPDATE' INTO id, fire_at, processed, signed USING job_id;
        EXIT WHEN id IS NOT NULL OR job_id IS NULL;
        -- A row that has gone may have been exchanged for another one with its key, or its id, in one
        -- transaction. Each repetition means that somebody has done that, so many of them mean that the
        -- row is there, and is not ours to lock.
        IF job_key IS NULL THEN
            EXECUTE 'SELECT EXISTS (SELECT FROM ' || jobs || ' WHERE id = $1)' INTO seen USING job_id;
            EXIT WHEN NOT seen;
        END IF;
        IF attempt = 100 THEN
            RAISE EXCEPTION 'job % can be read, and not be changed', job_id
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'look at the row-level security of the table: this role needs a policy for UPDATE that includes the row';
        END IF;
    END LOOP;
    -- Each statement sees what was committed before it: the claim that has set processed, and its entry
    -- in the journal, or what the settlement that has removed the entry has left instead.
    state := CASE
        WHEN id IS NULL THEN 'missing'
        WHEN NOT processed THEN 'waiting'
        WHEN signed IS NULL THEN 'fired'
        WHEN EXISTS (SELECT FROM reactor.lanes l CROSS JOIN LATERAL (
                 SELECT FROM reactor.in_flight f
                  WHERE f.lane = l.lane AND f.batch + 0 >= coalesce((SELECT max(s.batch) FROM reactor.journal_starts s WHERE s.lane = l.lane), 0)
                    AND f.token = signed AND find_job.id = ANY (f.job_ids)) AS entry) THEN 'firing'
        WHEN EXISTS (SELECT FROM reactor.retries r WHERE r.job_id = find_job.id AND r.claim = signed AND NOT r.returned) THEN 'returning'
        WHEN EXISTS (SELECT FROM reactor.failed_jobs f WHERE f.job_id = find_job.id AND f.claim = signed) THEN 'failed'
        ELSE 'fired' END;
END;
$$;

-- What the functions below answer about a job that they have not changed.
CREATE OR REPLACE FUNCTION reactor.why_not(state text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE state WHEN 'firing' THEN 'too late, firing now' WHEN 'fired' THEN 'already fired' WHEN 'failed' THEN 'already failed' ELSE 'not found' END
$$;

-- Whether the index jobs_key lets one unfired job have a key. A table with partitions has no such index:
-- there the functions take a lock for the key, and what they have to see is what was committed before
-- they got it.
CREATE OR REPLACE FUNCTION reactor.keys_are_unique() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM reactor.deployment JOIN pg_index ON indexrelid = to_regclass(format('%I.jobs_key', jobs_schema))::oid WHERE indisunique AND indisvalid)
$$;

CREATE OR REPLACE FUNCTION reactor.lock_key(job_key text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'keys of a table with partitions cannot be used under %', upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'feature_not_supported', HINT = 'schedule the job under READ COMMITTED';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('reactor key ' || job_key, 0::bigint));
END;
$$;

-- Schedules a job, and answers 'scheduled'; with the key of a job that has not fired it replaces that one,
-- which keeps its id, and answers 'replaced'. A job that is being fired at this moment is not replaced:
-- the new one comes after it.
CREATE OR REPLACE FUNCTION reactor.schedule(
    topic text, payload text DEFAULT '', fire_at timestamptz DEFAULT NULL, -- NULL: now
    key text DEFAULT NULL, expires_at timestamptz DEFAULT NULL, payload_bytes bytea DEFAULT NULL, qos integer DEFAULT NULL, retain boolean DEFAULT false,
    content_type text DEFAULT NULL, response_topic text DEFAULT NULL, correlation_data bytea DEFAULT NULL, headers jsonb DEFAULT NULL,
    ordering_key text DEFAULT NULL,
    OUT id bigint, OUT outcome text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs    text := (SELECT format('%I.jobs', jobs_schema) FROM reactor.deployment);
    unless  text := '';
    changed bigint;
BEGIN
    fire_at := coalesce(fire_at, clock_timestamp());
    payload := coalesce(payload, '');
    retain  := coalesce(retain, false);
    IF key IS NOT NULL THEN
        IF reactor.keys_are_unique() THEN
            unless := ' ON CONFLICT (key) WHERE NOT processed AND key IS NOT NULL DO NOTHING';
        ELSE
            PERFORM reactor.lock_key(key);
        END IF;
    END IF;
    -- A key can be taken between the two statements, and then it is replaced. Each repetition means that
    -- somebody else has got on with this key, so many of them mean that something is wrong.
    FOR attempt IN 1 .. 100 LOOP
        IF key IS NOT NULL THEN
            EXECUTE 'UPDATE ' || jobs || ' SET topic = $1, payload = $2, fire_at = $3, expires_at = $5, payload_bytes = $6, qos = $7, retain = $8,
                    content_type = $9, response_topic = $10, correlation_data = $11, headers = $12, ordering_key = $13,
                    claim = NULL, processed_at = NULL, schedule_id = NULL, occurrence_at = NULL
                 WHERE key = $4 AND NOT processed RETURNING id'
               INTO id USING topic, payload, fire_at, key, expires_at, payload_bytes, qos::smallint, retain, content_type, response_topic, correlation_data, headers, ordering_key;
            GET DIAGNOSTICS changed = ROW_COUNT;
            IF changed > 1 THEN -- inserted without this function, in a table with partitions
                EXECUTE 'DELETE FROM ' || jobs || ' WHERE key = $1 AND NOT processed AND id <> $2' USING key, id;
            END IF;
            IF id IS NOT NULL THEN
                outcome := 'replaced';
                RETURN;
            END IF;
        END IF;
        EXECUTE 'INSERT INTO ' || jobs || ' (topic, payload, fire_at, key, expires_at, payload_bytes, qos, retain, content_type, response_topic, correlation_data, headers, ordering_key)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)' || unless || ' RETURNING id'
           INTO id USING topic, payload, fire_at, key, expires_at, payload_bytes, qos::smallint, retain, content_type, response_topic, correlation_data, headers, ordering_key;
        IF id IS NOT NULL THEN
            outcome := 'scheduled';
            RETURN;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'the job cannot be inserted into %, and no reason is given', jobs USING HINT = 'look for a trigger that silently keeps rows out, and for row-level security that hides the job with this key';
END;
$$;

-- Inserts jobs, given as a JSON array of objects whose members are the columns of jobs, and returns their
-- ids in the order of the array. bytea is given as base64. A job without fire_at is due now. Keys are not
-- replaced: one that an unfired job has is a unique violation. A member that is no such column is refused: a
-- misspelled fire_at would be a job that is due now.
CREATE OR REPLACE FUNCTION reactor.insert_jobs(list json) RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    members text[] := '{topic,payload,fire_at,key,expires_at,payload_bytes,qos,retain,content_type,response_topic,correlation_data,headers,ordering_key}';
    unknown text;
BEGIN
    IF json_typeof(list) <> 'array' OR EXISTS (SELECT FROM json_array_elements(list) AS job WHERE json_typeof(job) <> 'object') THEN
        RAISE EXCEPTION 'insert_jobs takes a JSON array of objects' USING ERRCODE = 'invalid_parameter_value', HINT = '[{"topic": "lamp/7", "payload": "on", "fire_at": "2030-01-01T00:00:00Z"}]';
    END IF;
    SELECT member INTO unknown FROM json_array_elements(list) AS job, json_object_keys(job) AS member WHERE member <> ALL (members) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'insert_jobs does not know the member %', to_json(unknown) USING ERRCODE = 'undefined_column', HINT = 'the members are ' || array_to_string(members, ', ');
    END IF;
    RETURN QUERY EXECUTE format('
        INSERT INTO %1$I.jobs (topic, payload, fire_at, key, expires_at, payload_bytes, qos, retain, content_type, response_topic, correlation_data, headers, ordering_key)
        SELECT topic, coalesce(payload, %2$L), coalesce(fire_at, clock_timestamp()), key, expires_at, decode(payload_bytes, %3$L), qos, coalesce(retain, false),
               content_type, response_topic, decode(correlation_data, %3$L), headers, ordering_key
          FROM ROWS FROM (json_to_recordset($1) AS (topic text, payload text, fire_at timestamptz, key text, expires_at timestamptz, payload_bytes text, qos smallint, retain boolean,
                                                    content_type text, response_topic text, correlation_data text, headers jsonb, ordering_key text)) WITH ORDINALITY AS job
         ORDER BY ordinality RETURNING id', (SELECT jobs_schema FROM reactor.deployment), '', 'base64') USING list;
END;
$$;

-- What cancel does, by id or by key.
CREATE OR REPLACE FUNCTION reactor.cancel_job(job_id bigint, job_key text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_job record := reactor.find_job(job_id, job_key);
    changed   bigint;
BEGIN
    IF found_job.state NOT IN ('waiting', 'returning') THEN
        RETURN reactor.why_not(found_job.state);
    END IF;
    EXECUTE format('DELETE FROM %I.jobs WHERE id = $1 AND fire_at = $2', (SELECT jobs_schema FROM reactor.deployment)) USING found_job.id, found_job.fire_at;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed = 0 THEN
        RAISE EXCEPTION 'job % was not deleted, and no reason is given', found_job.id USING HINT = 'look for a trigger on the table that silently keeps its rows, and for its row-level security';
    END IF;
    RETURN 'cancelled';
END;
$$;

-- Cancels a job: its row is deleted. Answers 'cancelled'; or 'too late, firing now', 'already fired',
-- 'already failed', 'not found'.
CREATE OR REPLACE FUNCTION reactor.cancel(id bigint) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT reactor.cancel_job(id, NULL) $$;

CREATE OR REPLACE FUNCTION reactor.cancel(key text) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT reactor.cancel_job(NULL, key) $$;

-- Cancels all jobs whose topic begins with a text. Answers how many were cancelled, and of how many more
-- it was too late, as they are being fired. It reads all jobs that have not fired. An empty text is
-- refused: it is rather a variable that is not set than the wish to cancel everything.
CREATE OR REPLACE FUNCTION reactor.cancel_topic(prefix text, OUT cancelled bigint, OUT firing bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs    text := (SELECT format('%I.jobs', jobs_schema) FROM reactor.deployment);
    to_fire text := 'j.topic ^@ $1 AND (NOT j.processed OR EXISTS (SELECT FROM reactor.retries r WHERE r.job_id = j.id AND r.claim = j.claim AND NOT r.returned))';
    gone    bigint;
    idle    integer := 0;
    more    boolean;
BEGIN
    IF coalesce(prefix, '') = '' THEN
        RAISE EXCEPTION 'the prefix is empty, so this would cancel every job'
            USING ERRCODE = 'invalid_parameter_value', HINT = format('give the beginning of a topic; to cancel every job: DELETE FROM %s WHERE NOT processed', jobs);
    END IF;
    cancelled := 0;
    -- A job that was being fired, and could not be published, can come back after the first statement. The
    -- second would not count it, so it looks for such jobs as well. Jobs that somebody inserts
    -- meanwhile must not keep this from ending.
    FOR round IN 1 .. 10 LOOP
        EXECUTE 'DELETE FROM ' || jobs || ' j WHERE ' || to_fire USING prefix;
        GET DIAGNOSTICS gone = ROW_COUNT;
        cancelled := cancelled + gone;
        idle := idle + (gone = 0)::integer;
        EXECUTE 'SELECT (SELECT count(*) FROM reactor.lanes l CROSS JOIN LATERAL (
                     SELECT f.token, f.job_ids FROM reactor.in_flight f
                      WHERE f.lane = l.lane AND f.batch + 0 >= coalesce((SELECT max(s.batch) FROM reactor.journal_starts s WHERE s.lane = l.lane), 0)) AS entry
                  CROSS JOIN LATERAL unnest(entry.job_ids) AS u (id) JOIN ' || jobs || ' j ON j.id = u.id AND j.claim = entry.token
                  WHERE j.topic ^@ $1), EXISTS (SELECT FROM ' || jobs || ' j WHERE ' || to_fire || ')' INTO firing, more USING prefix;
        EXIT WHEN NOT more;
    END LOOP;
    -- They were there after each round, and the next one has deleted nothing.
    IF more AND idle >= 9 THEN
        RAISE EXCEPTION 'jobs were not deleted, and no reason is given' USING HINT = 'look for a trigger on the table that silently keeps its rows, and for its row-level security';
    END IF;
END;
$$;

-- Makes a job that find_job has locked due at a time, also if it was claimed already; expires_at stays as
-- it is, or becomes new_expiry. With claim NULL the row is none that an earlier claim took: what was
-- noted of that one, a pause before the next attempt for example, concerns it no more. A newer job may
-- have got its key since the claim; that one stays.
CREATE OR REPLACE FUNCTION reactor.make_due(job_id bigint, job_time timestamptz, state text, new_time timestamptz, change_expiry boolean, new_expiry timestamptz, done text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs       text := (SELECT format('%I.jobs', jobs_schema) FROM reactor.deployment);
    sentence   text := 'UPDATE ' || jobs || ' SET fire_at = $3, expires_at = CASE WHEN $4 THEN $5 ELSE expires_at END, processed = false, processed_at = NULL, claim = NULL
                         WHERE id = $1 AND fire_at = $2';
    superseded text := 'replaced by a newer job with its key';
    job_key    text;
    changed    bigint;
    rule       text;
BEGIN
    IF state = 'waiting' THEN
        EXECUTE sentence USING job_id, job_time, new_time, change_expiry, new_expiry;
        GET DIAGNOSTICS changed = ROW_COUNT;
    ELSE
        EXECUTE 'SELECT key FROM ' || jobs || ' WHERE id = $1 AND fire_at = $2' INTO job_key USING job_id, job_time;
        IF job_key IS NOT NULL THEN
            IF NOT reactor.keys_are_unique() THEN
                PERFORM reactor.lock_key(job_key);
            END IF;
            EXECUTE 'SELECT count(*) FROM ' || jobs || ' WHERE key = $1 AND NOT processed' INTO changed USING job_key;
            IF changed > 0 THEN
                RETURN superseded;
            END IF;
        END IF;
        BEGIN
            EXECUTE sentence USING job_id, job_time, new_time, change_expiry, new_expiry;
            GET DIAGNOSTICS changed = ROW_COUNT;
        EXCEPTION WHEN unique_violation THEN
            GET STACKED DIAGNOSTICS rule = CONSTRAINT_NAME;
            IF rule <> 'jobs_key' THEN
                RAISE;
            END IF;
            RETURN superseded;
        END;
    END IF;
    IF changed = 0 THEN
        RAISE EXCEPTION 'job % was not changed, and no reason is given', job_id USING HINT = 'look for a trigger on the table that silently keeps its rows, and for its row-level security';
    END IF;
    RETURN done;
END;
$$;

-- What reschedule and fire_now do.
CREATE OR REPLACE FUNCTION reactor.move_job(job_id bigint, job_key text, new_time timestamptz, done text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_job record := reactor.find_job(job_id, job_key);
BEGIN
    IF found_job.state NOT IN ('waiting', 'returning') THEN
        RETURN reactor.why_not(found_job.state);
    END IF;
    RETURN reactor.make_due(found_job.id, found_job.fire_at, found_job.state, new_time, false, NULL, done);
END;
$$;

-- Moves a job to another time. Answers 'rescheduled'; or like cancel why not; or 'replaced by a newer job
-- with its key', of a job that was not published and is about to be tried again.
CREATE OR REPLACE FUNCTION reactor.reschedule(id bigint, fire_at timestamptz) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT reactor.move_job(id, NULL, fire_at, 'rescheduled') $$;

CREATE OR REPLACE FUNCTION reactor.reschedule(key text, fire_at timestamptz) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT reactor.move_job(NULL, key, fire_at, 'rescheduled') $$;

-- Makes a job due at once. Answers 'due now'; or like reschedule why not.
CREATE OR REPLACE FUNCTION reactor.fire_now(id bigint) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT reactor.move_job(id, NULL, clock_timestamp(), 'due now') $$;

CREATE OR REPLACE FUNCTION reactor.fire_now(key text) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT reactor.move_job(NULL, key, clock_timestamp(), 'due now') $$;

-- Has a job that failed tried again, at once, with all its attempts. expires_at is its new one; NULL:
-- none. Answers 'to be tried again'; or 'waiting', 'too late, firing now', 'already fired', 'not found',
-- 'replaced by a newer job with its key'.
CREATE OR REPLACE FUNCTION reactor.retry(id bigint, expires_at timestamptz DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_job record := reactor.find_job(id, NULL);
BEGIN
    IF found_job.state IN ('waiting', 'returning') THEN
        RETURN 'waiting';
    ELSIF found_job.state <> 'failed' THEN
        RETURN reactor.why_not(found_job.state);
    END IF;
    RETURN reactor.make_due(found_job.id, found_job.fire_at, 'failed', greatest(found_job.fire_at, clock_timestamp()), true, expires_at, 'to be tried again');
END;
$$;
