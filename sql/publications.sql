-- The publications that the WAL feed reads, in place of the triggers (triggers.down.sql).
-- Runnable by hand after schema.sql, as often as you like; `reactor migrate feed wal` runs
-- the same text. It takes CREATE on the database, and the table's owner.
--
-- They say what the server sends of each row: id, fire_at and processed, for no more is needed
-- to wake an instance. An UPDATE of a table that is published names the row by its replica
-- identity (the primary key, mostly), so its columns are in the list as well; of a table without
-- one every UPDATE would fail. Whoever changes the identity later runs this again.
--
-- Rows that are inserted as processed are left out by the server. Claims, which are updates,
-- cannot be: a filter on processed needs that column in the replica identity, and then turns
-- a row's leaving into a DELETE, which is sent just the same.
DO $$
DECLARE
    -- Types, too, are looked up on the path of the caller.
    home     pg_catalog.name;
    part     record;
    inserted pg_catalog.text := '';
    updated  pg_catalog.text := '';
    options  pg_catalog.text := 'publish_via_partition_root = true';
BEGIN
    -- From here on nobody's functions and operators but PostgreSQL's.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT jobs_schema INTO home FROM reactor.deployment;
    IF to_regclass(format('%I.jobs', home)) IS NULL THEN
        RAISE EXCEPTION 'the table %.jobs is not there', quote_ident(home) USING HINT = 'run `reactor migrate up`';
    END IF;
    FOR part IN
        -- Partitions are published as their root; heirs are tables of their own.
        WITH RECURSIVE tree (oid, root) AS (
            SELECT oid, oid FROM pg_class WHERE oid = to_regclass(format('%I.jobs', home))
            UNION
            SELECT inhrelid, CASE WHEN relispartition THEN root ELSE inhrelid END
              FROM pg_inherits JOIN tree ON inhparent = tree.oid JOIN pg_class c ON c.oid = inhrelid
        ), member AS (
            SELECT c.oid, root, relreplident,
                   (SELECT min(indexrelid) FROM pg_index
                     WHERE indrelid = c.oid AND indimmediate AND indisvalid
                       AND CASE relreplident WHEN 'd' THEN indisprimary WHEN 'i' THEN indisreplident ELSE false END) AS identity
              FROM tree JOIN pg_class c ON c.oid = tree.oid
        ), key AS (
            SELECT root, attname, attgenerated
              FROM member JOIN pg_index ON indexrelid = identity JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
        )
        SELECT root::regclass::text AS name, root = to_regclass(format('%I.jobs', home)) AS main,
               (min(oid) FILTER (WHERE relreplident <> 'f' AND identity IS NULL))::regclass AS nameless,
               (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = root
                   AND (attname IN ('id', 'fire_at', 'processed') OR attname IN (SELECT attname FROM key WHERE key.root = member.root))) AS columns,
               -- Before version 18 a generated column cannot be in the list.
               bool_or(relreplident = 'f')
               OR current_setting('server_version_num')::int < 180000
              AND EXISTS (SELECT FROM key WHERE key.root = member.root AND attgenerated <> '') AS whole
          FROM member GROUP BY root
    LOOP
        -- Of an heir whose rows have no names the sweep finds what is new.
        CONTINUE WHEN part.nameless IS NOT NULL AND NOT part.main;
        IF part.nameless IS NOT NULL THEN
            RAISE EXCEPTION 'the table % has no replica identity: if it were published, every UPDATE of it would fail', part.nameless
                USING HINT = (SELECT CASE
                    WHEN count(*) = 0 THEN format('give it a primary key: ALTER TABLE %s ADD PRIMARY KEY (id)', part.nameless)
                    WHEN bool_or(indimmediate) THEN format('give it one: ALTER TABLE %s REPLICA IDENTITY DEFAULT', part.nameless)
                    ELSE 'its primary key is DEFERRABLE: make that NOT DEFERRABLE' END FROM pg_index WHERE indrelid = part.nameless AND indisprimary);
        END IF;
        updated  := updated || format(', ONLY %s%s', part.name, CASE WHEN part.whole THEN '' ELSE format(' (%s)', part.columns) END);
        inserted := inserted || format(', ONLY %s%s WHERE (NOT processed)', part.name, CASE WHEN part.whole THEN '' ELSE format(' (%s)', part.columns) END);
    END LOOP;
    -- Of a table that is published whole version 18 leaves generated columns out, and then refuses
    -- every UPDATE of one whose replica identity is full.
    IF current_setting('server_version_num')::int >= 180000 THEN
        options := options || ', publish_generated_columns = stored';
    END IF;
    FOR part IN
        SELECT * FROM (VALUES ('reactor_jobs_inserted', 'insert', inserted), ('reactor_jobs_updated', 'update', updated)) AS made (name, operation, tables)
    LOOP
        IF EXISTS (SELECT FROM pg_publication WHERE pubname = part.name) THEN
            EXECUTE format('ALTER PUBLICATION %I SET TABLE %s', part.name, substr(part.tables, 3));
            EXECUTE format('ALTER PUBLICATION %I SET (publish = %L, %s)', part.name, part.operation, options);
        ELSE
            EXECUTE format('CREATE PUBLICATION %I FOR TABLE %s WITH (publish = %L, %s)', part.name, substr(part.tables, 3), part.operation, options);
        END IF;
    END LOOP;
END;
$$;
