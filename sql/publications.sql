-- The publications that the WAL feed reads, instead of the triggers (triggers.down.sql). They can
-- be created by hand after schema.sql, as often as you like; `reactor migrate feed wal` runs the
-- same text. That requires CREATE on the database, and the owner of the table.
--
-- They define which columns the server sends of each row: id, fire_at and processed, which is all
-- that an instance needs. An UPDATE of a published table identifies the row by its replica identity
-- (in most cases the primary key), so the columns of that are in the list as well; without a
-- replica identity every UPDATE of the table would fail. Run this again after a change of the
-- replica identity.
--
-- The server leaves out rows that are inserted as processed. It cannot leave out claims, which are
-- updates: a filter on processed requires that column in the replica identity, and then turns an
-- update that ends the match into a DELETE, which is sent as well.
DO $$
DECLARE
    -- Types are qualified as well: they are looked up in the search path of the caller.
    home     pg_catalog.name;
    part     record;
    inserted pg_catalog.text := '';
    updated  pg_catalog.text := '';
    options  pg_catalog.text := 'publish_via_partition_root = true';
BEGIN
    -- From here on only PostgreSQL's own functions and operators are found.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT jobs_schema INTO home FROM reactor.deployment;
    IF to_regclass(format('%I.jobs', home)) IS NULL THEN
        RAISE EXCEPTION 'the table %.jobs is not there', quote_ident(home) USING HINT = 'run `reactor migrate up`';
    END IF;
    FOR part IN
        -- Partitions are published as their root; inheritance children are tables of their own.
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
        -- The sweep finds new jobs of an inheritance child without a replica identity.
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
    -- Version 18 leaves generated columns out of a table that is published with all columns, and
    -- then refuses every UPDATE if its replica identity is full.
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
