package pgsource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// schema asks for the schema, our rights on it, and the table of jobs, in this order. It reports whether
// the table was found.
func (x *examination) schema(ctx context.Context) bool {
	found, err := x.findTable(ctx, x.path)
	if errors.Is(err, errNoSchema) {
		x.noSchema(ctx)
		return false
	}
	if !x.versions(ctx, err) {
		return false
	}
	switch {
	case errors.Is(err, errLackOfRights):
		x.problem("rights", err)
		return false
	case errors.Is(err, errHidden):
		x.problem("row-level security", err)
		return false
	case errors.Is(err, errTableMoved):
		x.list = append(x.list, driver.FindingOf("table", driver.Warning, err))
		return false
	case err != nil:
		x.problem("table", err)
		return false
	}
	x.table.Store(&found)
	err = x.checkRights(ctx)
	switch {
	case errors.Is(err, errHidden):
		x.problem("row-level security", err)
	case err != nil:
		x.problem("rights", err)
	default:
		x.add("rights", driver.Fine, "this role has all rights that an instance needs on the tables", "")
	}
	x.add("table", driver.Fine, found.name+" is the table of jobs of this deployment, and no second one like it is in the search path", "")
	x.columns(ctx)
	x.parts(ctx)
	return true
}

// columns asks for columns that somebody has dropped, or given another type. If there are none, nothing is said.
func (x *examination) columns(ctx context.Context) {
	jobs := x.jobs().name
	list, err := changedColumns(jobs, func(sql string, args []any, read func(pgx.Rows) error) error {
		return x.background.rows(ctx, sql, args, read)
	})
	if err != nil {
		x.failed("columns", err)
		return
	}
	for _, c := range list {
		what := fmt.Sprintf("the column %s of %s is %s, and was %s", c.Name, c.of(x.names, jobs), c.Is, c.Type)
		switch {
		case c.Is == "" && !x.complete: // an earlier version, which lacks it
		case c.Is == "":
			x.add("columns", driver.Problem, fmt.Sprintf("%s has lost the column %s", c.of(x.names, jobs), c.Name), c.remedy(x.names, jobs))
		case c.Table == "":
			x.add("columns", driver.Warning, what+": reactor was not tested with that", c.remedy(x.names, jobs))
		default:
			x.add("columns", driver.Problem, what, c.remedy(x.names, jobs))
		}
	}
}

// parts asks for what belongs to the schema beside the tables, and is missed only when it is used: the functions, and
// the rows of the shards. If all is there, nothing is said.
func (x *examination) parts(ctx context.Context) {
	var functions []string
	var shards int
	err := x.background.row(ctx, `
		SELECT ARRAY(SELECT name FROM unnest(`+schemaFunctions+`) AS name GROUP BY name
		              HAVING count(*) > (SELECT count(*) FROM pg_proc WHERE proname = name AND pronamespace = 'reactor'::regnamespace) ORDER BY name),
		       (SELECT count(*) FROM reactor.shards)`, nil, &functions, &shards)
	if err != nil {
		return // a right is missing, or an earlier version has other parts: that has been said
	}
	if x.complete && len(functions) > 0 {
		x.add("functions", driver.Problem, "these functions of schema reactor are gone: "+strings.Join(functions, ", "), runRepair)
	}
	if shards != driver.Shards {
		x.problem("shards", missingShards(shards))
	}
}

// schemaFunctions are the names of the functions of schema reactor that this version has, without that of the triggers. A name is
// there once for each of its signatures.
const schemaFunctions = "'{bind_ordering,cancel,cancel,cancel_topic,fill_in,fill_in,find_job,fire_now,fire_now,guard_lane,guard_order,insert_jobs,is_outdated,keys_are_unique,keys_in_flight,keys_to_return,make_due,make_jobs,move_job,next_in_order,reschedule,reschedule,retry,run_schedule,schedule,schedule_changed,schedules_truncated,skips_late,waits_until,why_not}'::text[]"

// versions compares the schema with this program; tableErr is why the table was not found.
func (x *examination) versions(ctx context.Context, tableErr error) bool {
	const check = "schema"
	states, err := MigrateStatus(ctx, x.cfg.DatabaseURL, x.cfg.deployment())
	switch {
	case sqlState(err) == pgerrcode.InsufficientPrivilege:
		grant := driver.FindingOf(check, driver.Problem, err).Remedy
		x.add(check, driver.Problem, "this role may not see which versions are applied, so an instance starts only if it does not migrate (`reactor run --no-migrate`)", grant)
		return true
	case err != nil:
		x.problem(check, err)
		return false
	}
	var pending []string
	for _, state := range states {
		if state.AppliedAt.IsZero() {
			pending = append(pending, fmt.Sprintf("%d (%s)", state.Version, state.Name))
		}
	}
	x.complete = len(pending) == 0
	switch {
	case len(pending) == 0:
		x.add(check, driver.Fine, fmt.Sprintf("version %d, the newest that this program knows", schema.Newest()), "")
	case len(pending) == len(states) && tableErr == nil:
		x.add(check, driver.Fine, "made by the SQL files: no versions are recorded, and nothing is missing", "")
	default:
		x.add(check, driver.Problem, "these versions are not applied: "+strings.Join(pending, ", "), "run `reactor migrate up` as the owner of the database")
	}
	return true
}

// noSchema is for a database without a deployment, or with one of an earlier version.
func (x *examination) noSchema(ctx context.Context) {
	x.list = append(x.list, driver.FindingOf("schema", driver.Problem, errNoSchema))
	x.mayCreate(ctx)
	x.foreign(ctx)
}

// mayCreate asks whether this role may create schema reactor in the database, and the table of jobs in one of the
// schemas where sql/schema.sql looks for a place. Since PostgreSQL 15 not everybody may do the second in public.
func (x *examination) mayCreate(ctx context.Context) {
	const check = "rights"
	places, wanted := append(x.path[:len(x.path):len(x.path)], "public"), "public"
	if home := x.names.Home(); home != "" {
		places, wanted = []string{home}, home
	}
	var role, lacking string
	err := x.ask(ctx, `
		SELECT quote_ident(current_user), concat_ws('; ',
		       CASE WHEN NOT has_database_privilege(current_database(), 'CREATE') THEN format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user) END,
		       CASE WHEN NOT EXISTS (SELECT FROM pg_namespace n WHERE nspname = ANY ($1::text[]) AND NOT starts_with(nspname::text, 'pg_') AND (
		                             nspname <> 'reactor' AND has_schema_privilege(oid, 'CREATE')
		                             AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_attribute ON attrelid = c.oid WHERE relnamespace = n.oid AND relname = 'deployment' AND attname = 'jobs_schema')
		                             OR EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid AND relname = $3 AND relkind IN ('r', 'p')))) THEN format('GRANT CREATE ON SCHEMA %I TO %I', $2::text, current_user) END)`,
		[]any{places, wanted, x.names.Table()}, &role, &lacking)
	switch {
	case err != nil:
		x.failed(check, err)
	case lacking == "":
		x.add(check, driver.Fine, "role "+role+" may create the schema and the table", "")
	default:
		x.add(check, driver.Warning, "role "+role+" may not create the schema and the table", "migrate as the owner of the database, or as that owner run "+lacking)
	}
}

// foreign asks whether somebody else's table has the name that ours will get. What is looked at is what
// sql/schema.sql looks at.
func (x *examination) foreign(ctx context.Context) {
	const check = "table"
	places := append(x.path[:len(x.path):len(x.path)], "public")
	if home := x.names.Home(); home != "" {
		places = []string{home}
	}
	var name string
	var ours bool
	err := x.ask(ctx, `
		SELECT format('%I.%I', nspname, relname), relkind IN ('r', 'p') AND 7 = (SELECT count(*) FROM pg_attribute WHERE attrelid = c.oid AND NOT attisdropped AND (attname, atttypid) IN (
		       ('id', 'int8'::regtype), ('topic', 'text'::regtype), ('payload', 'text'::regtype), ('fire_at', 'timestamptz'::regtype), ('processed', 'bool'::regtype),
		       ('processed_at', 'timestamptz'::regtype), ('shard', 'int2'::regtype)) AND (attname <> 'shard' OR attgenerated = 's'))
		  FROM unnest($1::text[]) WITH ORDINALITY AS place (schema, position) JOIN pg_namespace n ON nspname = place.schema JOIN pg_class c ON relnamespace = n.oid
		 WHERE relname = $2 AND relkind <> 'i' ORDER BY position LIMIT 1`, []any{places, x.names.Table()}, &name, &ours)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		x.add(check, driver.Fine, "nobody else's table has its name", "")
	case err != nil:
		x.failed(check, err)
	case ours:
		x.add(check, driver.Fine, name+" is a table of jobs that an earlier version, or a deployment that was undone, has left", "")
	case x.names.Home() != "":
		x.add(check, driver.Problem, name+" is there already, and it is somebody else's", "name another table as pgsource.Config.JobsTable, one that is not there yet")
	default:
		x.add(check, driver.Problem, name+" is there already, and it is somebody else's", "rename it, or name another table as pgsource.Config.JobsTable, such as reactor_jobs, or give reactor a schema of its own, first in the search path: ALTER ROLE … SET search_path = …")
	}
}

// deployment asks whether the database is the one that the deployment's name was given for.
func (x *examination) deployment(ctx context.Context) {
	const check = "deployment"
	inOrder, err := x.identifyOnce(ctx, false)
	var started bool
	if err == nil {
		err = x.background.row(ctx, "SELECT database IS NOT NULL FROM reactor.deployment", nil, &started)
	}
	switch {
	case sqlState(err) != "":
		x.failed(check, err)
	case err != nil:
		x.problem(check, err)
	case inOrder:
		x.add(check, driver.Fine, "the MQTT client ids of its lanes begin with "+x.clientIDPrefix, "")
	case !started:
		x.add(check, driver.Fine, "new: its first instance gives it the name that its MQTT client ids begin with", "")
	default:
		x.add(check, driver.Warning, "this database is a copy of another deployment's, or is to get another name: the next instance changes the MQTT client ids, so that the two do not disturb each other", "delete the jobs in the copy that only the original is to publish, before you start an instance")
	}
}

// rowSecurity asks for policies that hide jobs. Those that hide them from this role were found before.
func (x *examination) rowSecurity(ctx context.Context) {
	const check = "row-level security"
	for _, f := range x.list {
		if f.Check == check {
			return
		}
	}
	var on bool
	err := x.ask(ctx, "SELECT relrowsecurity FROM pg_class WHERE oid = $1::regclass", []any{x.jobs().name}, &on)
	switch {
	case err != nil:
		x.failed(check, err)
	case on:
		x.add(check, driver.Fine, "the table has policies, and this role is exempt from them", "")
	default:
		x.add(check, driver.Fine, "hides no jobs", "")
	}
}

// shape asks whether the table is one table, has partitions, or has children.
func (x *examination) shape(ctx context.Context) {
	const check = "partitions"
	var kind, unlogged string
	var children, strangers int
	var interval *string
	err := x.background.row(ctx, treeSQL+`
		SELECT (SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)), (SELECT count(*)::int4 - 1 FROM tree), (SELECT count(DISTINCT root)::int4 - 1 FROM tree),
		       (SELECT coalesce(string_agg(c.oid::regclass::text, ', '), '') FROM pg_class c
		         WHERE relpersistence <> 'p' AND relkind IN ('r', 'p') AND (c.oid IN (SELECT oid FROM tree) OR relnamespace = to_regnamespace('reactor'))),
		       (SELECT to_jsonb(d) ->> 'partition_interval' FROM reactor.deployment d)`,
		[]any{x.jobs().name}, &kind, &children, &strangers, &unlogged, &interval)
	if err != nil {
		x.failed(check, err)
		return
	}
	if unlogged != "" {
		x.add("durability", driver.Problem, "a crash of PostgreSQL empties "+unlogged+", which is UNLOGGED", "run ALTER TABLE … SET LOGGED for each")
	}
	switch {
	case strangers > 0:
		x.add(check, driver.Warning, fmt.Sprintf("%d tables inherit from %s: jobs that are inserted straight into those are not announced, and are found by the sweep only", strangers, x.jobs().name), "insert into "+x.jobs().name+", or create the triggers on each of them, too")
	case kind != "p":
		x.add(check, driver.Fine, "none: a plain table", "")
	case interval == nil:
		x.add(check, driver.Warning, fmt.Sprintf("%d, which reactor does not maintain", children), "make and drop them yourself, with a default partition, or run `reactor partitions convert`, which takes them over")
	default:
		x.partitions(ctx, children)
	}
}

// partitions asks whether jobs that are due soon have a partition.
func (x *examination) partitions(ctx context.Context, count int) {
	var tree partitionTree
	err := x.inRole(ctx, func(tx pgx.Tx) (err error) {
		tree, err = partitionsNow(ctx, tx)
		return err
	})
	if err != nil {
		x.failed("partitions", err)
		return
	}
	what := fmt.Sprintf("%d, each for %v", count, tree.step)
	_, catchAll := tree.defaultPartition()
	switch missing := tree.missing(1); {
	case !catchAll:
		x.add("partitions", driver.Problem, what+", and none by default: the INSERT of a job that no partition is for fails", "run CREATE TABLE … PARTITION OF "+x.jobs().name+" DEFAULT")
	case len(missing) > 0:
		x.add("partitions", driver.Warning, what+", and none for jobs that are due now or next: they gather in the default partition", "run `reactor partitions maintain` as the owner of the table, from cron where no instance's role owns it")
	default:
		x.add("partitions", driver.Fine, what, "")
	}
}

const primaryKey = "the primary key"

// indexes asks for those without which claims and loads read the whole table.
func (x *examination) indexes(ctx context.Context) {
	var missing, invalid []string
	err := x.background.row(ctx, `
		SELECT ARRAY(SELECT name FROM unnest('{jobs_pending,jobs_key,jobs_ordered}'::text[]) AS name WHERE NOT EXISTS (
		             SELECT FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = $1::regclass AND relname = name))
		       || ARRAY(SELECT '`+primaryKey+`' WHERE NOT EXISTS (SELECT FROM pg_index WHERE indrelid = $1::regclass AND indisprimary) AND NOT EXISTS (SELECT FROM pg_class WHERE oid = $1::regclass AND relkind = 'p')),
		       ARRAY(SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = $1::regclass AND NOT (indisvalid AND indisready))`,
		[]any{x.jobs().name}, &missing, &invalid)
	remedy := runRepair + ", which makes it again"
	if slices.Contains(missing, primaryKey) {
		remedy = "run ALTER TABLE " + x.jobs().name + " ADD PRIMARY KEY (id) as the owner of the table, and for others " + strings.TrimPrefix(remedy, "run ")
	}
	switch {
	case err != nil:
		x.failed("indexes", err)
	case len(missing) > 0:
		x.add("indexes", driver.Problem, fmt.Sprintf("%s has lost %s: claims and loads read the whole table", x.jobs().name, strings.Join(missing, ", ")), remedy)
	case len(invalid) > 0:
		x.add("indexes", driver.Warning, "PostgreSQL does not use "+strings.Join(invalid, ", ")+", whose creation failed", "run REINDEX INDEX CONCURRENTLY, or drop it if it is nobody's")
	default:
		x.add("indexes", driver.Fine, "all are there and valid", "")
	}
}
