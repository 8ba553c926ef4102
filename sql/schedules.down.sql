-- Undoes schedules.sql, and leaves the table with what is in it: nothing makes its occurrences any more.
-- Whatever is changed meanwhile is looked at when schedules.sql is run again.
UPDATE reactor.schedules SET look_at = '-infinity', step = step + 1 WHERE NOT paused;
DROP TRIGGER IF EXISTS reactor_schedule_added ON reactor.schedules;
DROP TRIGGER IF EXISTS reactor_schedule_changed ON reactor.schedules;
DROP TRIGGER IF EXISTS reactor_schedule_deleted ON reactor.schedules;
DROP TRIGGER IF EXISTS reactor_schedules_truncated ON reactor.schedules;
DROP FUNCTION IF EXISTS
    reactor.schedule_changed(), reactor.schedules_truncated(), reactor.run_schedule(text),
    reactor.make_jobs(tid[], timestamptz[], timestamptz[]), reactor.skips_late(bigint, bigint, timestamptz, timestamptz),
    reactor.fill_in(text, text, timestamptz, text), reactor.fill_in(jsonb, text, timestamptz, text);
