-- The order of jobs with an ordering_key. It can be created by hand after schema.sql, as often as you
-- like; `reactor migrate up` runs the same text.

-- When to look again at a job with an ordering_key, because one before it has not ended; NULL: it may be
-- claimed. A job has ended when nobody will send its message again: it has left the journal, and does
-- not wait to be tried again. So of each key one message is on its way at most, whichever instances and
-- lanes their jobs belong to, whoever dies, and whatever the broker loses.
--
-- It is STABLE, so it sees what the statement that calls it sees: the rows, the journal and the retries
-- of one moment. A claim that is being made at the same time as another either sees the other's job as
-- unprocessed, or its entry in the journal.
--
-- The pause follows what is waited for: for a job in flight as long as it has been that, and for those
-- in a queue as many times 15 ms as there are before it. Thousands with one key are not all looked at
-- whenever one of them has ended.
CREATE OR REPLACE FUNCTION reactor.waits_until(wanted_key text, wanted_fire_at timestamptz, wanted_id bigint) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    jobs        text;
    policy      text;
    look_before text;
    latest      text := ' ORDER BY fire_at DESC, id DESC LIMIT 1';
    before      record;
    queued      integer;
    retry       timestamptz;
BEGIN
    SELECT format('%I.jobs', jobs_schema), ordered_failure INTO jobs, policy FROM reactor.deployment;
    look_before := 'SELECT id, fire_at, processed, processed_at, claim FROM ' || jobs || ' WHERE ordering_key = $1 AND (fire_at, id) < ($2, $3)';
    LOOP
        -- Most likely it was due within a day before. In a table with partitions that is a plan for two of
        -- them, and not for all of the past.
        EXECUTE look_before || ' AND fire_at BETWEEN greatest($2, ''epoch'') - interval ''1 day'' AND $2' || latest INTO before USING wanted_key, wanted_fire_at, wanted_id;
        IF before.id IS NULL THEN
            EXECUTE look_before || ' AND fire_at <= $2' || latest INTO before USING wanted_key, wanted_fire_at, wanted_id;
        END IF;
        IF before.id IS NULL THEN
            RETURN NULL;
        ELSIF NOT before.processed THEN
            -- One that cannot be claimed (quarantined) has failed: its record has no claim.
            IF policy = 'skip' AND EXISTS (SELECT FROM reactor.failed_jobs f WHERE f.job_id = before.id AND f.claim IS NULL) THEN
                wanted_fire_at := before.fire_at;
                wanted_id := before.id;
                CONTINUE;
            END IF;
            EXECUTE 'SELECT count(*) FROM (SELECT FROM ' || jobs || '
                      WHERE ordering_key = $1 AND (fire_at, id) < ($2, $3) AND fire_at BETWEEN greatest($2, ''epoch'') - interval ''1 day'' AND $2 AND NOT processed
                      ORDER BY fire_at DESC, id DESC LIMIT 1000) AS waiting'
               INTO queued USING wanted_key, wanted_fire_at, wanted_id;
            SELECT r.retry_at INTO retry FROM reactor.retries r WHERE r.job_id = before.id AND (r.claim = before.claim OR r.claim IS NULL);
            -- Somebody may cancel what is to be tried again in an hour.
            RETURN greatest(clock_timestamp() + greatest(queued, 1) * interval '15 ms', least(coalesce(retry, '-infinity'), clock_timestamp() + interval '5 s'));
        ELSIF before.claim IS NULL THEN
            RETURN NULL;
        ELSIF EXISTS (SELECT FROM reactor.lanes l CROSS JOIN LATERAL (
                  SELECT FROM reactor.in_flight f
                   WHERE f.lane = l.lane AND f.batch + 0 >= coalesce((SELECT max(s.batch) FROM reactor.journal_starts s WHERE s.lane = l.lane), 0)
                     AND f.token = before.claim AND before.id = ANY (f.job_ids)) AS entry) THEN
            RETURN clock_timestamp() + greatest(interval '5 ms', least(interval '1 s', clock_timestamp() - before.processed_at));
        ELSIF EXISTS (SELECT FROM reactor.retries r WHERE r.job_id = before.id AND r.claim = before.claim AND NOT r.returned) THEN
            RETURN clock_timestamp() + interval '50 ms';
        ELSIF policy = 'block' AND EXISTS (SELECT FROM reactor.failed_jobs f WHERE f.job_id = before.id AND f.claim = before.claim) THEN
            RETURN clock_timestamp() + interval '5 s';
        END IF;
        RETURN NULL;
    END LOOP;
END;
$$;
