-- Undoes publications.sql.
DROP PUBLICATION IF EXISTS reactor_jobs_inserted, reactor_jobs_updated;
