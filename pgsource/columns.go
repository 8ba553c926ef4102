package pgsource

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/naming"
)

// tableColumns are the columns that a table has by the texts of the schema, each with its type: "name type, name type".
// TestColumnsOfTheSchema compares them with a table that the texts have made.
type tableColumns struct {
	table string // of schema reactor; "": the table of jobs
	// kept are those that nobody can make again without what they contained; Repair refuses where one is missing. It
	// makes the added ones again.
	kept, added string
}

var columnsOfSchema = []tableColumns{
	// A new column processed would have everything published again.
	{
		"", "id bigint, topic text, payload text, fire_at timestamptz, processed boolean",
		"expires_at timestamptz, processed_at timestamptz, shard smallint, claim uuid, payload_bytes bytea, qos smallint, retain boolean, content_type text, response_topic text, correlation_data bytea, headers jsonb, key text, ordering_key text, schedule_id bigint, occurrence_at timestamptz",
	},
	{"deployment", "singleton boolean, name text", "system_identifier bigint, database oid, jobs_schema name, jobs_table name, partition_interval interval, ordered_failure text, ordered_catch_up text"},
	{
		"instances", "id bigint, name text, backends text, dynamic boolean, started_at timestamptz, heartbeat_at timestamptz, backend integer, steady_since timestamptz",
		"feed text, feed_problem text, feed_chosen_at timestamptz, shard_hints boolean, schema_version integer, version text, protocol integer, protocol_oldest integer, snapshot json",
	},
	{"shards", "shard smallint, owner bigint", ""},
	{"lanes", "lane integer, owner bigint, epoch bigint", "mark text"},
	{
		"in_flight", "batch bigint, lane integer, epoch bigint, token uuid, qos smallint, first_slot integer, settled integer, round bigint, job_ids bigint[], claimed_at timestamptz",
		"reach integer, due_by timestamptz, ordered_ids bigint[], ordered_keys bigint[]",
	},
	{"journal_starts", "lane integer, batch bigint", ""},
	{"retries", "job_id bigint, attempts integer, retry_at timestamptz, code smallint, reason text", "claim uuid, returned boolean, ordering bigint"},
	{"failed_jobs", "job_id bigint, failed_at timestamptz, attempts integer, code smallint, reason text", "claim uuid, state text, row_version bigint, ordering bigint"},
	{
		"schedules", "id bigint, name text, cron text, every interval, zone text, start_at timestamptz, end_at timestamptz, jitter interval, paused boolean, overlap text, catch_up text, catch_up_window interval, max_lateness interval, topic text, payload text, payload_bytes bytea, qos smallint, retain boolean, content_type text, response_topic text, correlation_data bytea, headers jsonb, ordering_key text, problem text, last_at timestamptz, next_at timestamptz, overlapped bigint, created_at timestamptz, decided_until timestamptz, look_at timestamptz, step bigint",
		"",
	},
}

// changedColumn is a column of the schema that somebody has dropped, or given another type.
type changedColumn struct {
	Table, Name, Type string // Table as in tableColumns
	Kept              bool   // as in tableColumns
	Is                string // its type now; "": it is gone
}

// changedColumnsSQL finds them: $1 is the table of jobs, and what follows are the columns. Tables that are gone are left out. A
// domain is what it is made of, and varchar is a text with a limit.
const changedColumnsSQL = `
SELECT wanted.tab, wanted.name, wanted.type, wanted.kept, coalesce(format_type(a.atttypid, a.atttypmod), '')
  FROM unnest($2::text[], $3::text[], $4::text[], $5::boolean[]) AS wanted (tab, name, type, kept)
  JOIN pg_class c ON c.oid = CASE wanted.tab WHEN '' THEN to_regclass(nullif($1, ''))::oid ELSE (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace('reactor')::oid AND relname = wanted.tab AND relkind IN ('r', 'p')) END
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = wanted.name AND NOT a.attisdropped
  LEFT JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attname IS NULL
    OR to_regtype(wanted.type)::oid <> ALL (ARRAY[a.atttypid, t.typbasetype]) AND NOT (wanted.type = 'text' AND 'varchar'::regtype::oid = ANY (ARRAY[a.atttypid, t.typbasetype]))`

// changedColumns returns the columns that differ from those of the schema, by a way to run a statement. jobs is the qualified name
// of the table of jobs; "": it is not known.
func changedColumns(jobs string, query func(sql string, args []any, read func(pgx.Rows) error) error) (list []changedColumn, err error) {
	var tables, names, types []string
	var kept []bool
	for _, t := range columnsOfSchema {
		for i, part := range []string{t.kept, t.added} {
			for column := range strings.SplitSeq(part, ", ") {
				if name, of, ok := strings.Cut(column, " "); ok {
					tables, names, types, kept = append(tables, t.table), append(names, name), append(types, of), append(kept, i == 0)
				}
			}
		}
	}
	err = query(changedColumnsSQL, []any{jobs, tables, names, types, kept}, func(rows pgx.Rows) (err error) {
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[changedColumn])
		return err
	})
	return list, err
}

// keptInJobs reports whether one of these columns of the table of jobs cannot be made again.
func keptInJobs(names []string) bool {
	return slices.ContainsFunc(strings.Split(columnsOfSchema[0].kept, ", "), func(column string) bool {
		name, _, _ := strings.Cut(column, " ")
		return slices.Contains(names, name)
	})
}

// restoreIt is what somebody does about a column of the table of jobs that cannot be made again.
const restoreIt = "restore the table from a backup"

// of returns the table of the column, for people: with the names of a deployment.
func (c changedColumn) of(n naming.Names, jobs string) string {
	if c.Table == "" {
		return jobs
	}
	return n.In("reactor." + c.Table)
}

// remedy is what somebody does about it.
func (c changedColumn) remedy(n naming.Names, jobs string) string {
	table := c.of(n, jobs)
	switch {
	case c.Is != "" && strings.HasPrefix(c.Is, "timestamp") && c.Type == "timestamptz":
		return "run " + withTimeZone(table, c.Name)
	case c.Is != "":
		return fmt.Sprintf("run ALTER TABLE %s ALTER COLUMN %s TYPE %s as the owner of the table", table, c.Name, c.Type)
	case !c.Kept:
		return runRepair
	case c.Table == "":
		return restoreIt
	}
	return fmt.Sprintf(restoreIt+", or, if what is in it may be lost, stop all instances, run DROP TABLE %s CASCADE, and then `reactor migrate up --repair`", table)
}

// withTimeZone is the statement that makes a time an instant again.
func withTimeZone(table, column string) string {
	return fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE timestamptz USING %[2]s AT TIME ZONE 'UTC' as the owner of the table, or with the zone that applications mean", table, column)
}

// mendColumns is for Repair, before the texts: they add columns, but not those with which they create a table.
func mendColumns(ctx context.Context, tx pgx.Tx) error {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT pg_catalog.to_regclass('reactor.deployment') IS NOT NULL").Scan(&there); err != nil {
		return err
	}
	jobs, n := "", txNames(tx)
	if there {
		err := tx.QueryRow(ctx, "SELECT coalesce(pg_catalog.max(pg_catalog.to_jsonb(d) OPERATOR(pg_catalog.->>) 'jobs_schema'::pg_catalog.text), '') FROM reactor.deployment AS d").Scan(&jobs)
		if err != nil {
			return err
		}
		if jobs != "" {
			jobs = qualified(n, jobs)
		}
	}
	// What is looked for is in pg_catalog, and the text sets a path of its own.
	var path string
	if err := tx.QueryRow(ctx, "SELECT pg_catalog.current_setting('search_path')").Scan(&path); err != nil {
		return err
	}
	if err := execScript(ctx, tx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil {
		return err
	}
	list, err := changedColumns(jobs, func(sql string, args []any, read func(pgx.Rows) error) error {
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		return read(rows)
	})
	if err != nil {
		return err
	}
	var again []string
	for _, c := range list {
		switch {
		case c.Is != "":
		case c.Kept:
			return fmt.Errorf("the table %s has lost the column %s, which cannot be made again without what it contained: %s", c.of(n, jobs), c.Name, c.remedy(n, jobs))
		case c.Table == "" && addAgain[c.Name] != "":
			again = append(again, addAgain[c.Name])
		}
	}
	if len(again) > 0 {
		if err := execVerbatim(ctx, tx, "ALTER TABLE "+jobs+" "+strings.Join(again, ", ")); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, "SELECT pg_catalog.set_config('search_path', $1, true)", path)
	return err
}

// addAgain are the columns with which sql/schema.sql creates the table of jobs and that can be made again.
var addAgain = map[string]string{
	"expires_at":   `ADD COLUMN expires_at timestamptz, DROP CONSTRAINT IF EXISTS "expires_at must be finite", ADD CONSTRAINT "expires_at must be finite" CHECK (isfinite(expires_at))`,
	"processed_at": "ADD COLUMN processed_at timestamptz",
	"shard":        "ADD COLUMN shard smallint NOT NULL GENERATED ALWAYS AS ((hashint8(id) & 63)::smallint) STORED",
}
