-- Makes the function of the triggers that of the versions before 5, which does not name shards:
-- instances of those versions ignore notifications that do. Where there is no function, nothing is
-- created.
DO $migration$
BEGIN
    IF pg_catalog.to_regproc('reactor.announce_jobs') IS NULL THEN
        RETURN;
    END IF;
    EXECUTE $text$
CREATE OR REPLACE FUNCTION reactor.announce_jobs() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
$text$;
END;
$migration$;
