-- Keeps instances of versions before 6 from what they do not understand, while they run beside instances
-- of this version. It can be created by hand after schema.sql, as often as you like; `reactor migrate up`
-- runs the same text.
--
-- They publish topic and payload, and nothing else of a row; they know no order, and no keys. So
--
--   - they cannot claim a row that has more: the constraint "reactor before version 6 of the schema
--     cannot publish this job" of jobs (schema.sql). It costs no trigger. They leave the row
--     unprocessed, record the refusal, and try again now and then; the job is published when its shard
--     has come to an instance of this version
--   - they cannot take over a lane while its journal has such a row: what another instance has claimed
--     they would send again, without what they do not know
--   - they cannot record that a job with an ordering key is refused, because those behind it would take
--     that for its end.
--
-- Where no such instance runs, none of this does anything but look at the new owner of a lane.

-- Types and operators are looked up in the search path of the caller.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);

-- The change is left out, and not refused: a plan of the membership changes several lanes, and the others
-- are to find an owner. Whoever made the plan sees afterwards that it does not own the lane.
--
-- The instance is known by its row, which says the version since version 6. An owner without a row is
-- deposed already, and what it does has no effect.
CREATE OR REPLACE FUNCTION reactor.guard_lane() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unknown boolean;
BEGIN
    IF NOT EXISTS (SELECT FROM reactor.instances i WHERE i.id = NEW.owner AND i.schema_version IS NULL) THEN
        RETURN NEW;
    END IF;
    EXECUTE format('SELECT EXISTS (
        SELECT FROM reactor.in_flight f CROSS JOIN LATERAL unnest(f.job_ids) AS entry (id) JOIN %I.jobs j ON j.id = entry.id AND j.claim = f.token
         WHERE f.lane = $1 AND f.batch + 0 >= coalesce((SELECT max(s.batch) FROM reactor.journal_starts s WHERE s.lane = $1), %L::bigint)
           AND (j.retain OR j.payload_bytes IS NOT NULL OR j.qos IS NOT NULL OR j.content_type IS NOT NULL OR j.response_topic IS NOT NULL
                OR j.correlation_data IS NOT NULL OR j.headers IS NOT NULL OR j.key IS NOT NULL OR j.ordering_key IS NOT NULL))',
        (SELECT jobs_schema FROM reactor.deployment), '-9223372036854775808') INTO unknown USING NEW.lane;
    RETURN CASE WHEN unknown THEN NULL ELSE NEW END;
END;
$$;
CREATE OR REPLACE TRIGGER reactor_guard_lane
    BEFORE INSERT OR UPDATE OF owner ON reactor.lanes FOR EACH ROW WHEN (NEW.owner IS NOT NULL) EXECUTE FUNCTION reactor.guard_lane();

CREATE OR REPLACE FUNCTION reactor.guard_order() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ordered boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %I.jobs WHERE id = $1 AND ordering_key IS NOT NULL)', (SELECT jobs_schema FROM reactor.deployment)) INTO ordered USING NEW.job_id;
    RETURN CASE WHEN ordered THEN NULL ELSE NEW END;
END;
$$;
CREATE OR REPLACE TRIGGER reactor_guard_order
    BEFORE INSERT ON reactor.failed_jobs FOR EACH ROW
    WHEN (NEW.claim IS NULL AND strpos(NEW.reason, 'reactor before version 6 of the schema cannot publish this job'::text) > 0)
    EXECUTE FUNCTION reactor.guard_order();
