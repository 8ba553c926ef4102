-- The triggers that wake the instances. Runnable by hand after schema.sql, as
-- often as you like; `reactor migrate up` runs the same text.
--
-- One trigger call per statement, whatever its size, and at most one constant-size
-- notification: 'min_id max_id earliest', earliest in microseconds since 1970.
--
-- A statement whose earliest fire_at lies beyond the notify horizon of one minute
-- sends nothing: NOTIFY serializes commits, and the window sweep of the instances
-- will find those rows long before they are due. The horizon must not be shorter
-- than the instances' window (reactor.Config.Horizon).

CREATE OR REPLACE FUNCTION reactor.announce_jobs() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    first_id bigint;
    last_id  bigint;
    earliest timestamptz;
BEGIN
    SELECT min(id), max(id), min(fire_at)
      INTO first_id, last_id, earliest
      FROM written
     WHERE NOT processed;
    IF earliest < clock_timestamp() + interval '1 minute' THEN
        PERFORM pg_notify('reactor_jobs',
            format('%s %s %s', first_id, last_id, (extract(epoch FROM earliest) * 1000000)::bigint));
    END IF;
    RETURN NULL;
END;
$$;

-- Two triggers, because a trigger with a transition table serves one event.
-- Deleting or marking as processed needs none: the claim looks at the row again.
CREATE OR REPLACE TRIGGER reactor_jobs_inserted
    AFTER INSERT ON jobs REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION reactor.announce_jobs();

-- An update may have moved fire_at forward or revived a job. The claims' own
-- updates come by here too; they leave no unprocessed row and send nothing.
CREATE OR REPLACE TRIGGER reactor_jobs_updated
    AFTER UPDATE ON jobs REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION reactor.announce_jobs();
