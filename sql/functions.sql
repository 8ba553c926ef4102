-- Functions for producers, in any language: to schedule, cancel, reschedule and fire jobs. They can be
-- created by hand after schema.sql, as often as you like; `reactor migrate up` runs the same text.
--
-- They run with the rights of their caller, which needs USAGE on schema reactor, SELECT on its tables
-- deployment, lanes, journal_starts, in_flight, retries and failed_jobs, and on the table jobs what it
-- needs for the same in plain SQL.
--
-- What they answer is true when the caller's transaction commits: a row that is to be changed is locked
-- until then, and a claim leaves locked rows alone. They wait for a claim that has the row, which is a
-- matter of milliseconds. Under REPEATABLE READ a row that was claimed since the transaction began
-- makes them fail with 40001, as it does any UPDATE.

-- Finds a job, locks its row if it can still be changed, and tells what has become of it:
--
--   waiting    it was not claimed
--   returning  it was claimed and not published, and is about to be unprocessed again
--   firing     an instance has claimed it: it is being published, or has just been
--   fired      it was published; or somebody has marked it as processed
--   failed     it ended without being published (reactor.failed_jobs)
--   missing    there is no such row
--
-- A job in firing can still become returning or failed.
CREATE OR REPLACE FUNCTION reactor.find_job(job_id bigint, job_key text, OUT id bigint, OUT fire_at timestamptz, OUT state text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs      text := (SELECT format('%I.jobs', jobs_schema) FROM reactor.deployment);
    processed boolean;
    signed    uuid; -- with the token of this claim
BEGIN
    state := 'missing';
    IF job_key IS NOT NULL THEN
        EXECUTE 'SELECT id, fire_at FROM ' || jobs || ' WHERE key = $1 AND NOT processed ORDER BY fire_at LIMIT 1 FOR UPDATE' INTO id, fire_at USING job_key;
        IF id IS NOT NULL THEN
            state := 'waiting';
            RETURN;
        END IF;
        EXECUTE 'SELECT id FROM ' || jobs || ' WHERE key = $1 AND processed ORDER BY id DESC LIMIT 1' INTO job_id USING job_key;
    END IF;
    EXECUTE 'SELECT id, fire_at, processed, claim FROM ' || jobs || ' WHERE id = $1 FOR UPDATE' INTO id, fire_at, processed, signed USING job_id;
    IF id IS NULL THEN
        RETURN;
    END IF;
    -- Each statement sees what was committed before it: the claim that has set processed, and its entry
    -- in the journal, or what the settlement that has removed the entry has left instead.
    state := CASE
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

-- Schedules a job, and answers 'scheduled'; with the key of a job that has not fired it replaces that one,
-- which keeps its id, and answers 'replaced'. A job that is being fired at this moment is not replaced:
-- the new one comes after it.
CREATE OR REPLACE FUNCTION reactor.schedule(
    topic text, payload text DEFAULT '', fire_at timestamptz DEFAULT NULL, -- NULL: now
    key text DEFAULT NULL, expires_at timestamptz DEFAULT NULL, payload_bytes bytea DEFAULT NULL, qos integer DEFAULT NULL, retain boolean DEFAULT false,
    content_type text DEFAULT NULL, response_topic text DEFAULT NULL, correlation_data bytea DEFAULT NULL, headers jsonb DEFAULT NULL,
    OUT id bigint, OUT outcome text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs text := (SELECT format('%I.jobs', jobs_schema) FROM reactor.deployment);
BEGIN
    fire_at := coalesce(fire_at, clock_timestamp());
    FOR attempt IN 1 .. 10 LOOP
        IF key IS NOT NULL THEN
            -- One at a time for a key: a table with partitions has no unique index for it.
            PERFORM pg_advisory_xact_lock(hashtextextended('reactor key ' || key, 0));
            EXECUTE 'UPDATE ' || jobs || ' SET topic = $1, payload = $2, fire_at = $3, expires_at = $5, payload_bytes = $6, qos = $7, retain = $8,
                    content_type = $9, response_topic = $10, correlation_data = $11, headers = $12, claim = NULL, processed_at = NULL, schedule_id = NULL
                 WHERE key = $4 AND NOT processed RETURNING id'
               INTO id USING topic, payload, fire_at, key, expires_at, payload_bytes, qos::smallint, retain, content_type, response_topic, correlation_data, headers;
            IF id IS NOT NULL THEN
                outcome := 'replaced';
                RETURN;
            END IF;
        END IF;
        BEGIN
            EXECUTE 'INSERT INTO ' || jobs || ' (topic, payload, fire_at, key, expires_at, payload_bytes, qos, retain, content_type, response_topic, correlation_data, headers)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING id'
               INTO id USING topic, payload, fire_at, key, expires_at, payload_bytes, qos::smallint, retain, content_type, response_topic, correlation_data, headers;
            outcome := 'scheduled';
            RETURN;
        EXCEPTION WHEN unique_violation THEN
            -- Somebody has inserted the key without this function. It is replaced, unless this
            -- transaction cannot see it.
            IF key IS NULL OR attempt = 10 THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END;
$$;

-- What cancel does, by id or by key.
CREATE OR REPLACE FUNCTION reactor.cancel_job(job_id bigint, job_key text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_job record := reactor.find_job(job_id, job_key);
BEGIN
    IF found_job.state NOT IN ('waiting', 'returning') THEN
        RETURN reactor.why_not(found_job.state);
    END IF;
    EXECUTE format('DELETE FROM %I.jobs WHERE id = $1 AND fire_at = $2', (SELECT jobs_schema FROM reactor.deployment)) USING found_job.id, found_job.fire_at;
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
-- it was too late, as they are being fired. It reads all jobs that have not fired.
CREATE OR REPLACE FUNCTION reactor.cancel_topic(prefix text, OUT cancelled bigint, OUT firing bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs text := (SELECT format('%I.jobs', jobs_schema) FROM reactor.deployment);
BEGIN
    EXECUTE 'WITH gone AS (DELETE FROM ' || jobs || ' j WHERE topic ^@ $1 AND (NOT processed
                 OR EXISTS (SELECT FROM reactor.retries r WHERE r.job_id = j.id AND r.claim = j.claim AND NOT r.returned)) RETURNING id)
             SELECT count(*) FROM gone' INTO cancelled USING prefix;
    EXECUTE 'SELECT count(*) FROM reactor.lanes l CROSS JOIN LATERAL (
                 SELECT f.token, f.job_ids FROM reactor.in_flight f
                  WHERE f.lane = l.lane AND f.batch + 0 >= coalesce((SELECT max(s.batch) FROM reactor.journal_starts s WHERE s.lane = l.lane), 0)) AS entry
              CROSS JOIN LATERAL unnest(entry.job_ids) AS u (id) JOIN ' || jobs || ' j ON j.id = u.id AND j.claim = entry.token
              WHERE j.topic ^@ $1' INTO firing USING prefix;
END;
$$;

-- What reschedule and fire_now do. With claim NULL the row is none that an earlier claim took: what was noted of that one, a pause before
-- the next attempt for example, concerns it no more.
CREATE OR REPLACE FUNCTION reactor.move_job(job_id bigint, job_key text, new_time timestamptz, done text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_job record := reactor.find_job(job_id, job_key);
BEGIN
    IF found_job.state NOT IN ('waiting', 'returning') THEN
        RETURN reactor.why_not(found_job.state);
    END IF;
    EXECUTE format('UPDATE %I.jobs SET fire_at = $3, processed = false, processed_at = NULL, claim = NULL WHERE id = $1 AND fire_at = $2',
        (SELECT jobs_schema FROM reactor.deployment)) USING found_job.id, found_job.fire_at, new_time;
    RETURN done;
END;
$$;

-- Moves a job to another time. Answers 'rescheduled'; or like cancel why not.
CREATE OR REPLACE FUNCTION reactor.reschedule(id bigint, fire_at timestamptz) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT reactor.move_job(id, NULL, fire_at, 'rescheduled') $$;

CREATE OR REPLACE FUNCTION reactor.reschedule(key text, fire_at timestamptz) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT reactor.move_job(NULL, key, fire_at, 'rescheduled') $$;

-- Makes a job due at once. Answers 'due now'; or like cancel why not.
CREATE OR REPLACE FUNCTION reactor.fire_now(id bigint) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT reactor.move_job(id, NULL, clock_timestamp(), 'due now') $$;

CREATE OR REPLACE FUNCTION reactor.fire_now(key text) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT reactor.move_job(NULL, key, clock_timestamp(), 'due now') $$;

-- Has a job that failed tried again, at once, with all its attempts. expires_at is its new one; NULL:
-- none. Answers 'to be tried again'; or 'waiting', 'too late, firing now', 'already fired', 'not found'.
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
    EXECUTE format('UPDATE %I.jobs SET fire_at = greatest(fire_at, $3), expires_at = $4, processed = false, processed_at = NULL, claim = NULL WHERE id = $1 AND fire_at = $2',
        (SELECT jobs_schema FROM reactor.deployment)) USING found_job.id, found_job.fire_at, clock_timestamp(), expires_at;
    RETURN 'to be tried again';
END;
$$;
