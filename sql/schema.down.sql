-- Undoes schema.sql. This drops the table of jobs with all that is in it.
DROP TABLE IF EXISTS jobs;
DROP TABLE IF EXISTS reactor.failed_jobs, reactor.retries, reactor.in_flight,
                     reactor.lanes, reactor.shards, reactor.instances, reactor.deployment;
