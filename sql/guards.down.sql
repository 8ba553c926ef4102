-- Undoes guards.sql. The constraint of jobs stays with the columns: an instance of an earlier version
-- leaves the rows alone that use them.
DROP TRIGGER IF EXISTS reactor_guard_lane ON reactor.lanes;
DROP TRIGGER IF EXISTS reactor_guard_order ON reactor.failed_jobs;
DROP FUNCTION IF EXISTS reactor.guard_lane(), reactor.guard_order();
