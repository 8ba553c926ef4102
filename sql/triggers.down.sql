-- Undoes triggers.sql.
DROP TRIGGER IF EXISTS reactor_jobs_inserted ON jobs;
DROP TRIGGER IF EXISTS reactor_jobs_updated ON jobs;
DROP FUNCTION IF EXISTS reactor.announce_jobs();
