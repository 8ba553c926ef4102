-- The order of jobs with an ordering_key. It can be created by hand after schema.sql, as often as you
-- like; `reactor migrate up` runs the same text.
--
-- A job may be claimed when nobody will send the message of an earlier one again. That is so when
--
--   - no job of its key is in the journal, or noted to be made unprocessed again (keys_in_flight),
--   - no earlier job of its key is unprocessed, and with the policy "block" none has failed (waits_until).
--
-- So of each key one message is on its way at most, whichever instances and lanes its jobs belong to,
-- whoever dies, and whatever the broker loses. The functions are STABLE, so they see what the statement
-- that calls them sees: the rows, the journal and the notes of one moment. A claim that is being made
-- at the same time as another sees the other's job as unprocessed, or its entry in the journal. Only a job
-- that is inserted, or moved to the front, between the snapshots of two such claims can be on its way
-- together with the later one: it comes too late to be before it.
--
-- What is compared is a hash of the key, the column "ordering" of the other tables. Two keys with the
-- same hash would wait for each other, and nothing worse.
--
-- With a table that has partitions, connections of reactor plan each statement anew, which is far too slow
-- here: these functions keep their plans.

-- Types and operators are looked up in the search path of the caller.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- The hashes of the keys whose order a claim must not disturb now.
CREATE OR REPLACE FUNCTION reactor.keys_in_flight() RETURNS SETOF bigint
LANGUAGE plpgsql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN QUERY
        SELECT one.ordering FROM reactor.lanes l CROSS JOIN LATERAL (
                SELECT f.job_ids, f.ordered_ids, f.ordered_keys FROM reactor.in_flight f
                 WHERE f.lane = l.lane AND f.batch + 0 >= coalesce((SELECT s.batch FROM reactor.journal_starts s WHERE s.lane = l.lane ORDER BY s.batch DESC LIMIT 1), '-9223372036854775808'::bigint)
                   AND f.ordered_ids IS NOT NULL) AS entry
         CROSS JOIN LATERAL unnest(entry.ordered_ids, entry.ordered_keys) AS one (id, ordering)
         WHERE one.id = ANY (entry.job_ids);
    IF EXISTS (SELECT FROM reactor.retries r WHERE NOT r.returned AND r.ordering IS NOT NULL) THEN
        RETURN QUERY SELECT * FROM reactor.keys_to_return();
    END IF;
END;
$$;

-- Creates the functions that read the table of jobs. Their texts name it, so that their plans are kept; so
-- this has to be called again when the table has moved to another schema. An instance that finds that out
-- does it, with the rights of the functions' owner. So what the record says, which an instance can change, must not
-- become a statement: $$ in the name of the schema would end the text of a function, and a text that is cut
-- off is an error only while the bodies of functions are checked, which the caller could have turned off.
CREATE OR REPLACE FUNCTION reactor.bind_ordering() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET check_function_bodies = on AS $bind$
DECLARE
    home        text := (SELECT format('%I.jobs', jobs_schema) FROM reactor.deployment);
    -- What cannot be claimed has failed, which its record says while its row has not changed since.
    quarantined text := 'EXISTS (SELECT FROM reactor.failed_jobs f WHERE f.job_id = j.id AND f.claim IS NULL AND f.row_version = j.xmin::text::bigint)';
    body        text := $text$

-- A note counts while it is true, that is until the row has been made unprocessed, deleted, or changed by
-- somebody.
CREATE OR REPLACE FUNCTION reactor.keys_to_return() RETURNS SETOF bigint
LANGUAGE plpgsql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN QUERY SELECT r.ordering FROM reactor.retries r
         WHERE NOT r.returned AND r.ordering IS NOT NULL
           AND EXISTS (SELECT FROM {jobs} j WHERE j.id = r.job_id AND j.claim = r.claim AND j.processed);
END;
$$;

-- When to look again at a job, because an earlier one of its key that is not in flight keeps it waiting;
-- NULL: none does.
--
-- Who settles a job tells the one behind it (next_in_order). So this pause is for what nobody tells: a
-- job that is deleted, or an instance that dies in between. It grows with the time that the job has
-- waited.
CREATE OR REPLACE FUNCTION reactor.waits_until(its_key bigint, its_time timestamptz, its_id bigint) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    blocks boolean := (SELECT ordered_failure = 'block' FROM reactor.deployment);
BEGIN
    PERFORM FROM {jobs} j
     WHERE hashtextextended(j.ordering_key, 0::bigint) = its_key AND j.ordering_key IS NOT NULL AND coalesce(NOT j.processed, false)
       AND (j.fire_at, j.id) < (its_time, its_id) AND j.fire_at <= its_time AND (blocks OR NOT {quarantined})
     ORDER BY j.fire_at DESC, j.id DESC LIMIT 1;
    IF NOT FOUND AND blocks THEN
        PERFORM FROM reactor.failed_jobs f JOIN {jobs} j ON j.id = f.job_id AND j.claim = f.claim AND j.processed
          WHERE f.ordering = its_key AND f.state = 'failed' AND (j.fire_at, j.id) < (its_time, its_id);
    END IF;
    RETURN CASE WHEN FOUND THEN clock_timestamp() + greatest(interval '50 ms', least(interval '10 s', clock_timestamp() - its_time)) END;
END;
$$;

-- Whether a job is late and is not to be published, because a newer one of its key is due as well, and can
-- be (reactor.deployment.ordered_catch_up = 'newest').
CREATE OR REPLACE FUNCTION reactor.is_outdated(its_key bigint, its_time timestamptz, its_id bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF its_time > clock_timestamp() - interval '5 s' OR (SELECT ordered_catch_up <> 'newest' FROM reactor.deployment) THEN
        RETURN false;
    END IF;
    PERFORM FROM {jobs} j
     WHERE hashtextextended(j.ordering_key, 0::bigint) = its_key AND j.ordering_key IS NOT NULL AND coalesce(NOT j.processed, false)
       AND (j.fire_at, j.id) > (its_time, its_id) AND j.fire_at >= its_time AND j.fire_at <= clock_timestamp()
       AND (j.expires_at > clock_timestamp()) IS NOT FALSE AND NOT {quarantined}
     ORDER BY j.fire_at, j.id LIMIT 1;
    RETURN FOUND;
END;
$$;

-- The first job of each key that may be next, if it is due, or nearly so.
CREATE OR REPLACE FUNCTION reactor.next_in_order(orderings bigint[]) RETURNS TABLE (id bigint, shard smallint, fire_at timestamptz)
LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    blocks boolean := (SELECT ordered_failure = 'block' FROM reactor.deployment);
    one    bigint;
BEGIN
    FOREACH one IN ARRAY orderings LOOP
        RETURN QUERY SELECT j.id, j.shard, j.fire_at FROM {jobs} j
             WHERE hashtextextended(j.ordering_key, 0::bigint) = one AND j.ordering_key IS NOT NULL AND coalesce(NOT j.processed, false)
               AND j.fire_at <= clock_timestamp() + interval '50 ms' AND (blocks OR NOT {quarantined})
             ORDER BY j.fire_at, j.id LIMIT 1;
    END LOOP;
END;
$$;

$text$;
BEGIN
    IF strpos(home, '$$') > 0 THEN
        RAISE EXCEPTION 'the name of the schema of % contains $$', home USING HINT = 'rename it';
    END IF;
    EXECUTE replace(replace(body, '{quarantined}', quarantined), '{jobs}', home);
END;
$bind$;
SELECT reactor.bind_ordering();

-- Where PUBLIC may not execute new functions, roles that claim and settle jobs may execute these.
REVOKE EXECUTE ON FUNCTION reactor.bind_ordering() FROM PUBLIC;
DO $$
DECLARE
    claimant text;
BEGIN
    FOR claimant IN
        SELECT DISTINCT CASE WHEN grantee = 0::oid THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)::text) END
          FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = 'reactor.in_flight'::regclass::oid AND grantee <> relowner AND privilege_type = 'INSERT'
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION reactor.keys_in_flight(), reactor.keys_to_return(), reactor.waits_until(bigint, timestamptz, bigint), reactor.is_outdated(bigint, timestamptz, bigint), reactor.next_in_order(bigint[]), reactor.bind_ordering() TO ' || claimant;
    END LOOP;
END;
$$;
