-- Undoes triggers.sql.
DO $$
DECLARE
    home pg_catalog.name;
BEGIN
    SELECT jobs_schema INTO STRICT home FROM reactor.deployment;
    EXECUTE pg_catalog.format('DROP TRIGGER IF EXISTS reactor_jobs_inserted ON %I.jobs', home);
    EXECUTE pg_catalog.format('DROP TRIGGER IF EXISTS reactor_jobs_updated ON %I.jobs', home);
END;
$$;
DROP FUNCTION IF EXISTS reactor.announce_jobs();
