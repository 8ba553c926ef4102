-- Makes jobs a table with partitions by ranges of fire_at, in one transaction, with all its jobs. By
-- hand, while no instance runs:
--
--   psql -1 -c "SET reactor.partition_interval = '1 day'" -f sql/partitions.sql
--
-- `reactor partitions convert` runs the same text. The owner of the table must run it. It copies
-- every row, and nobody can use the table meanwhile. An empty table takes no time.
--
--   - Each partition holds one interval (UTC). Partitions are made for the intervals in which there
--     are jobs now, at most 400 to both sides of today, and for a week ahead.
--   - jobs_default holds what no other partition does: jobs due further ahead than partitions have
--     been made, and jobs whose fire_at lies before the first of them.
--   - Keys are unique among unfired jobs only as far as they are set by reactor.schedule.
--   - The primary key becomes (id, fire_at), because it must contain fire_at. Ids stay unique as long
--     as they come from the sequence.
--   - Rights, settings of autovacuum, indexes and triggers stay. What a partitioned table cannot have,
--     or what would silently be lost, is refused: see the messages below.
--
-- If jobs has partitions by ranges of fire_at already, only the interval is recorded, and jobs_default
-- created if there is none.
DO $$
DECLARE
    -- Types are qualified as well: they are looked up in the search path of the caller.
    home       pg_catalog.name;
    old        pg_catalog.oid;
    step       pg_catalog.interval;
    seconds    pg_catalog.numeric;
    running    pg_catalog.text;
    bad        pg_catalog.text;
    columns    pg_catalog.text;
    options    pg_catalog.text;
    owner      pg_catalog.name;
    full_rows  pg_catalog.bool;
    rebuilt    pg_catalog.text[] := '{}';
    statement  pg_catalog.text;
    sequence   pg_catalog.text;
    identity   pg_catalog.bool;
    last       pg_catalog.int8;
    called     pg_catalog.bool;
    lower      pg_catalog.timestamptz;
    final      pg_catalog.timestamptz;
    today      pg_catalog.timestamptz;
    part       pg_catalog.text;
    privilege  record;
BEGIN
    -- From here on only PostgreSQL's own functions and operators are found.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    PERFORM set_config('TimeZone', 'UTC', true);
    step := coalesce(nullif(current_setting('reactor.partition_interval', true), ''), '1 day');
    seconds := extract(epoch FROM step);
    IF extract(month FROM step) <> 0 OR extract(year FROM step) <> 0 OR seconds < 3600 OR seconds > 366 * 86400 OR seconds % 60 <> 0 THEN
        RAISE EXCEPTION 'a partition cannot hold %', step USING HINT = 'give an interval of whole minutes, from an hour to a year, without months';
    END IF;
    SELECT jobs_schema INTO home FROM reactor.deployment;
    old := to_regclass(format('%I.jobs', home));
    IF old IS NULL THEN
        RAISE EXCEPTION 'the table %.jobs is not there', quote_ident(home) USING HINT = 'run `reactor migrate up`';
    END IF;
    -- First, because it fails if the schema is of an earlier version.
    UPDATE reactor.deployment SET partition_interval = step;
    SELECT string_agg(name, ', ' ORDER BY name) INTO running FROM reactor.instances WHERE heartbeat_at > clock_timestamp() - interval '1 minute';

    IF (SELECT relkind FROM pg_class WHERE oid = old) = 'p' THEN
        IF pg_get_partkeydef(old) <> 'RANGE (fire_at)' THEN
            RAISE EXCEPTION 'the table has partitions already, by %', pg_get_partkeydef(old) USING HINT = 'only partitions by RANGE (fire_at) can be maintained';
        END IF;
        IF (SELECT partdefid FROM pg_partitioned_table WHERE partrelid = old) = 0 THEN
            EXECUTE format('CREATE TABLE %I.jobs_default PARTITION OF %1$I.jobs DEFAULT', home);
        END IF;
        RETURN;
    END IF;
    IF running IS NOT NULL THEN
        RAISE EXCEPTION 'instances are running (%)', running USING HINT = 'stop them first, or wait for a minute if they were killed';
    END IF;
    EXECUTE format('LOCK TABLE %I.jobs IN ACCESS EXCLUSIVE MODE', home);

    SELECT string_agg(format('%s (constraint %s)', conrelid::regclass, conname), ', ') INTO bad FROM pg_constraint WHERE contype = 'f' AND confrelid = old;
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'other tables refer to the ids of jobs: %', bad USING HINT = 'drop these foreign keys: in a table with partitions the id alone is not unique for PostgreSQL';
    END IF;
    SELECT string_agg(indexrelid::regclass::text, ', ') INTO bad FROM pg_index
     WHERE indrelid = old AND NOT indisprimary AND (indisunique OR indisexclusion) AND (SELECT relname FROM pg_class WHERE pg_class.oid = indexrelid) <> 'jobs_key'
       AND NOT (SELECT attnum FROM pg_attribute WHERE attrelid = old AND attname = 'fire_at') = ANY (indkey);
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'unique indexes do not contain fire_at: %', bad USING HINT = 'drop them: a table with partitions cannot have them';
    END IF;
    SELECT string_agg(DISTINCT r.ev_class::regclass::text, ', ') INTO bad
      FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = old AND r.ev_class <> old;
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'views use the table: %', bad USING HINT = 'drop them, and create them again afterwards';
    END IF;
    SELECT string_agg(what, ', ') INTO bad FROM (
        SELECT 'row-level security' FROM pg_class WHERE oid = old AND (relrowsecurity OR EXISTS (SELECT FROM pg_policy WHERE polrelid = old))
        UNION ALL SELECT 'rules' FROM pg_rewrite WHERE ev_class = old
        UNION ALL SELECT 'rights on columns' FROM pg_attribute WHERE attrelid = old AND attacl IS NOT NULL
        UNION ALL SELECT 'inheritance' FROM pg_inherits WHERE old IN (inhparent, inhrelid)
        UNION ALL SELECT 'publication ' || pubname FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid
                   WHERE prrelid = old AND pubname NOT IN ('reactor_jobs_inserted', 'reactor_jobs_updated')
        UNION ALL SELECT 'a replica identity by index' FROM pg_class WHERE oid = old AND relreplident = 'i') AS found (what);
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'the table has what would be lost: %', bad USING HINT = 'remove it, and create it again afterwards';
    END IF;

    -- What is to be created again once the old table is gone, as its names are free then.
    rebuilt := ARRAY(SELECT replace(pg_get_indexdef(indexrelid), 'CREATE UNIQUE INDEX jobs_key', 'CREATE INDEX jobs_key') FROM pg_index WHERE indrelid = old AND NOT indisprimary ORDER BY indexrelid)
            || ARRAY(SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = old AND NOT tgisinternal ORDER BY oid)
            || ARRAY(SELECT format('ALTER TABLE %I.jobs %s TRIGGER %I', home, CASE tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE REPLICA' END, tgname)
                       FROM pg_trigger WHERE tgrelid = old AND NOT tgisinternal AND tgenabled <> 'O' ORDER BY oid)
            || ARRAY(SELECT format('ALTER TABLE %I.jobs ADD CONSTRAINT %I %s', home, conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE conrelid = old AND contype = 'f' ORDER BY oid);
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_attribute WHERE attrelid = old AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    SELECT coalesce('WITH (' || array_to_string(reloptions, ', ') || ')', ''), pg_get_userbyid(relowner), relreplident = 'f' INTO options, owner, full_rows FROM pg_class WHERE oid = old;
    SELECT attidentity <> '' INTO identity FROM pg_attribute WHERE attrelid = old AND attname = 'id';
    sequence := pg_get_serial_sequence(format('%I.jobs', home), 'id');

    EXECUTE format('ALTER TABLE %I.jobs RENAME TO jobs_before_partitions', home);
    EXECUTE format('CREATE TABLE %I.jobs (LIKE %1$I.jobs_before_partitions INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS) PARTITION BY RANGE (fire_at)', home);
    EXECUTE format('ALTER TABLE %I.jobs OWNER TO %I', home, owner);
    IF sequence IS NOT NULL AND identity THEN
        EXECUTE format('SELECT last_value, is_called FROM %s', sequence) INTO last, called;
        PERFORM setval(pg_get_serial_sequence(format('%I.jobs', home), 'id'), last, called);
    ELSIF sequence IS NOT NULL THEN
        EXECUTE format('ALTER SEQUENCE %s OWNED BY %I.jobs.id', sequence, home);
    END IF;
    FOR privilege IN SELECT a.* FROM pg_class, aclexplode(relacl) AS a WHERE oid = old AND grantee <> relowner LOOP
        EXECUTE format('GRANT %s ON %I.jobs TO %s%s', privilege.privilege_type, home,
            CASE privilege.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(privilege.grantee)) END, CASE WHEN privilege.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;

    -- The partitions. Ranges begin at multiples of the interval since 1970.
    today := to_timestamp(floor(extract(epoch FROM clock_timestamp()) / seconds) * seconds);
    EXECUTE format('SELECT to_timestamp(floor(extract(epoch FROM min(fire_at)) / $1) * $1), to_timestamp(floor(extract(epoch FROM max(fire_at)) / $1) * $1)
        FROM %I.jobs_before_partitions WHERE fire_at BETWEEN $2 - 400 * $3 AND $2 + 400 * $3', home) INTO lower, final USING seconds, today, step;
    lower := least(lower, today);
    final := greatest(final, today + 7 * step);
    EXECUTE format('CREATE TABLE %I.jobs_default PARTITION OF %1$I.jobs DEFAULT %s', home, options);
    WHILE lower <= final LOOP
        part := 'jobs_p' || to_char(lower, CASE WHEN seconds % 86400 = 0 THEN 'YYYYMMDD' ELSE 'YYYYMMDD_HH24MI' END);
        EXECUTE format('CREATE TABLE %1$I.%2$I PARTITION OF %1$I.jobs FOR VALUES FROM (%3$L) TO (%4$L) %5$s', home, part, lower, lower + step, options);
        IF full_rows THEN
            EXECUTE format('ALTER TABLE %I.%I REPLICA IDENTITY FULL', home, part);
        END IF;
        lower := lower + step;
    END LOOP;
    IF full_rows THEN
        EXECUTE format('ALTER TABLE %I.jobs_default REPLICA IDENTITY FULL', home);
        EXECUTE format('ALTER TABLE %I.jobs REPLICA IDENTITY FULL', home);
    END IF;

    EXECUTE format('INSERT INTO %I.jobs (%s) OVERRIDING SYSTEM VALUE SELECT %2$s FROM %1$I.jobs_before_partitions', home, columns);
    EXECUTE format('DROP TABLE %I.jobs_before_partitions', home);
    EXECUTE format('ALTER TABLE %I.jobs ADD PRIMARY KEY (id, fire_at)', home);
    FOREACH statement IN ARRAY rebuilt LOOP
        EXECUTE statement;
    END LOOP;
END;
$$;
