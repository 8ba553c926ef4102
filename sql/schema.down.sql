-- Undoes schema.sql. This drops the table of jobs with all jobs in it: the table that the
-- deployment records, wherever the search path leads.
DO $$
DECLARE
    home pg_catalog.name;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT jobs_schema INTO STRICT home FROM reactor.deployment;
    IF to_regclass(format('%I.jobs', home)) IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = to_regclass(format('%I.jobs', home)) AND attname = 'shard' AND NOT attisdropped
    ) THEN
        RAISE EXCEPTION 'the table %.jobs is not reactor''s any more', quote_ident(home) USING HINT = 'rename it';
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS %I.jobs', home);
END;
$$;
DROP TABLE IF EXISTS reactor.schedules, reactor.failed_jobs, reactor.retries, reactor.in_flight, reactor.journal_starts,
                     reactor.lanes, reactor.shards, reactor.instances, reactor.deployment;
