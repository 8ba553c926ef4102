-- The triggers that announce new jobs to the instances. They can be created by hand after
-- schema.sql, as often as you like; `reactor migrate up` runs the same text.
--
-- Each statement calls a trigger once, however many rows it writes, and sends at most one
-- notification, of a constant size: 'min_id max_id earliest shards', with earliest in microseconds
-- since 1970, and a bit of shards (a signed number of 64 bits) for each shard that the rows are in:
-- an instance that owns none of them reads nothing. 0 would mean that the shards are not known.
-- Readers ignore fields behind these, which later versions may add.
--
-- Instances of a version of the schema before 5 ignore notifications with shards, and find the jobs
-- by their sweep. `reactor migrate up` therefore replaces an older function only while no such
-- instance lives; do the same when you run this text by hand.
--
-- A statement whose earliest fire_at is beyond the notify horizon of one minute sends nothing:
-- NOTIFY makes commits wait for each other, and the instances' sweep of the loading window finds
-- those rows long before they are due. The horizon must not be shorter than that window
-- (reactor.Config.Horizon).

-- Below, "jobs" means the table of the deployment, wherever the search path of the caller leads.
SELECT pg_catalog.set_config('search_path', pg_catalog.format('%I, pg_temp', jobs_schema), false)
  FROM reactor.deployment;

-- The function runs as the role that writes jobs, which may be the owner of the database. So it
-- must call only PostgreSQL's own functions: in the search path of its caller, somebody else's
-- function or operator would be preferred if its types fit exactly.
CREATE OR REPLACE FUNCTION reactor.announce_jobs() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first_id bigint;
    last_id  bigint;
    earliest timestamptz;
    shards   bigint;
BEGIN
    SELECT min(id), max(id), min(fire_at), coalesce(bit_or(1::bigint << shard), 0)
      INTO first_id, last_id, earliest, shards
      FROM written
     WHERE NOT processed;
    IF earliest < clock_timestamp() + interval '1 minute' THEN
        PERFORM pg_notify('reactor_jobs',
            format('%s %s %s %s', first_id, last_id, (extract(epoch FROM earliest) * 1000000)::bigint, shards));
    END IF;
    RETURN NULL;
END;
$$;

-- There are two triggers, because a trigger with a transition table serves one event. Deleting a
-- row, or marking it as processed, needs none, because the claim checks the row again.
CREATE OR REPLACE TRIGGER reactor_jobs_inserted
    AFTER INSERT ON jobs REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION reactor.announce_jobs();

-- An update may have moved fire_at forward, or made a job unprocessed. The updates of claims call
-- this trigger, too; they leave no unprocessed row, and it sends nothing.
CREATE OR REPLACE TRIGGER reactor_jobs_updated
    AFTER UPDATE ON jobs REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION reactor.announce_jobs();
