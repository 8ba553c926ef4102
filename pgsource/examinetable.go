package pgsource

import (
	"context"
	"errors"
	"fmt"
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
	x.add("table", driver.Fine, found.name+" is the table of jobs of this deployment, and the search path leads to no other", "")
	return true
}

// versions compares the schema with this program; tableErr is why the table was not found.
func (x *examination) versions(ctx context.Context, tableErr error) bool {
	const check = "schema"
	states, err := MigrateStatus(ctx, x.cfg.DatabaseURL, x.cfg.deployment())
	switch {
	case sqlState(err) == pgerrcode.InsufficientPrivilege:
		x.failed(check, err)
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
	var role, database string
	var create bool
	if err := x.ask(ctx, "SELECT quote_ident(current_user), quote_ident(current_database()), has_database_privilege(current_database(), 'CREATE')", nil, &role, &database, &create); err != nil {
		x.failed("rights", err)
	} else if create {
		x.add("rights", driver.Fine, "role "+role+" may create the schema", "")
	} else {
		x.add("rights", driver.Warning, "role "+role+" may not create the schema", "migrate as the owner of the database, or as that owner run GRANT CREATE ON DATABASE "+database+" TO "+role)
	}
	x.foreign(ctx)
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

// indexes asks for those without which claims and loads read the whole table.
func (x *examination) indexes(ctx context.Context) {
	var missing, invalid []string
	err := x.background.row(ctx, `
		SELECT ARRAY(SELECT name FROM unnest('{jobs_pending,jobs_key,jobs_ordered}'::text[]) AS name WHERE NOT EXISTS (
		             SELECT FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = $1::regclass AND relname = name))
		       || ARRAY(SELECT 'the primary key' WHERE NOT EXISTS (SELECT FROM pg_index WHERE indrelid = $1::regclass AND indisprimary) AND NOT EXISTS (SELECT FROM pg_class WHERE oid = $1::regclass AND relkind = 'p')),
		       ARRAY(SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = $1::regclass AND NOT (indisvalid AND indisready))`,
		[]any{x.jobs().name}, &missing, &invalid)
	switch {
	case err != nil:
		x.failed("indexes", err)
	case len(missing) > 0:
		x.add("indexes", driver.Problem, fmt.Sprintf("%s has lost %s: claims and loads read the whole table", x.jobs().name, strings.Join(missing, ", ")), "run psql -1 -f sql/schema.sql as the owner of the table, which makes it again")
	case len(invalid) > 0:
		x.add("indexes", driver.Warning, "PostgreSQL does not use "+strings.Join(invalid, ", ")+", whose creation failed", "run REINDEX INDEX CONCURRENTLY, or drop it if it is nobody's")
	default:
		x.add("indexes", driver.Fine, "all are there and valid", "")
	}
}
