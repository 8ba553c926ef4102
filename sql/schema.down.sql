-- Undoes schema.sql. This drops the table of jobs with all that is in it: the one that the
-- deployment is about, wherever the search path leads.
DO $$
DECLARE
    home name;
BEGIN
    SELECT jobs_schema INTO STRICT home FROM reactor.deployment;
    EXECUTE pg_catalog.format('DROP TABLE IF EXISTS %I.jobs', home);
END;
$$;
DROP TABLE IF EXISTS reactor.failed_jobs, reactor.retries, reactor.in_flight,
                     reactor.lanes, reactor.shards, reactor.instances, reactor.deployment;
