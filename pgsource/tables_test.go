package pgsource_test

import (
	"strings"
	"testing"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	schema "github.com/job-publisher/reactor/sql"
)

// TestTwoTables: versions before 3 created a table in each schema that they were pointed to, and
// all of them shared schema reactor.
func TestTwoTables(t *testing.T) {
	b := versionTwo(t, "a")
	b.versionTwoIn("b")
	a, other := with(t, b.url, "search_path", "a"), with(t, b.url, "search_path", "b")
	b.exec("INSERT INTO a.jobs (topic, fire_at) VALUES ('t', now()); INSERT INTO b.jobs (topic, fire_at) VALUES ('t', now())")
	b.migrateUp(a)
	for path, url := range map[string]string{"a": a, "b": other, "neither": b.url} {
		why := b.refused(pgsource.Config{DatabaseURL: url})
		for _, want := range []string{`"a"."jobs"`, "b.", "jobs", "pgsource.Config.JobsTable"} {
			if !strings.Contains(why, want) {
				t.Errorf("path %s: %s, want it to name %s", path, why, want)
			}
		}
	}
	b.exec("DROP TABLE b.jobs")
	b.start(a)
}

// TestTwoTablesOfTheSamePath: only the search path shows a second table without triggers.
func TestTwoTablesOfTheSamePath(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec("CREATE SCHEMA front; CREATE TABLE front.jobs (LIKE jobs INCLUDING ALL)")
	if why := b.refused(pgsource.Config{DatabaseURL: with(t, b.url, "search_path", "front,public")}); !strings.Contains(why, `"front"."jobs"`) {
		t.Error(why)
	}
	// A table jobs with other columns, such as the queue of a framework, is not mistaken for ours.
	b.exec("DROP TABLE front.jobs; CREATE TABLE front.jobs (id int, what text)")
	b.start(with(t, b.url, "search_path", "front,public"))
}

// TestRoleNamedReactor: "$user" is first in its search path, and schema reactor exists.
func TestRoleNamedReactor(t *testing.T) {
	server := testkit.OwnPostgres(t, ownServer)
	admin := examine(t, server.URL())
	admin.exec("CREATE ROLE reactor LOGIN")
	admin.exec("CREATE ROLE app LOGIN")
	for _, database := range []string{"fresh", "old", "filled"} {
		admin.exec("CREATE DATABASE " + database + " OWNER reactor")
	}

	t.Run("fresh", func(t *testing.T) {
		b := examine(t, server.DatabaseURL("fresh"))
		b.exec("ALTER SCHEMA public OWNER TO reactor; CREATE SCHEMA reactor AUTHORIZATION reactor")
		url := as(t, b.url, "reactor")
		b.migrateUp(url)
		b.exec("GRANT INSERT ON public.jobs TO app")
		app := connect(t, b.ctx, as(t, b.url, "app"))
		if _, err := app.Exec(b.ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('t', now())"); err != nil {
			t.Fatalf("other roles do not find the table: %v", err)
		}
		b.start(url)
		if batch := b.claim([]int64{1}); len(batch.Jobs) != 1 {
			t.Errorf("claimed %+v", batch)
		}
	})
	t.Run("old", func(t *testing.T) { // the table stays in schema reactor
		b := examine(t, server.DatabaseURL("old"))
		b.versionTwoIn("reactor")
		b.exec("INSERT INTO reactor.jobs (topic, fire_at) VALUES ('t', now()); GRANT ALL ON ALL TABLES IN SCHEMA reactor TO reactor; GRANT ALL ON SCHEMA reactor TO reactor")
		b.migrateUp(b.url)
		if n := b.count("SELECT count(*) FROM reactor.deployment WHERE jobs_schema = 'reactor'"); n != 1 {
			t.Error("the table was looked for elsewhere")
		}
		if n := b.count("SELECT count(*) FROM pg_class WHERE relname = 'jobs'"); n != 1 {
			t.Errorf("%d tables of jobs", n)
		}
		b.exec("GRANT ALL ON ALL TABLES IN SCHEMA reactor TO reactor")
		b.start(as(t, b.url, "reactor"))
		if batch := b.claim([]int64{1}); len(batch.Jobs) != 1 {
			t.Errorf("claimed %+v", batch)
		}
	})
	t.Run("an empty one in front", func(t *testing.T) {
		b := examine(t, server.DatabaseURL("filled"))
		b.versionTwoIn("public")
		b.versionTwoIn("reactor")
		b.exec("INSERT INTO public.jobs (topic, fire_at) VALUES ('t', now()); GRANT ALL ON ALL TABLES IN SCHEMA public TO reactor; GRANT USAGE ON SCHEMA reactor TO reactor")
		b.migrateUp(with(t, b.url, "search_path", "reactor,public")) // as "$user" resolves
		b.exec("GRANT ALL ON ALL TABLES IN SCHEMA reactor TO reactor")
		if why := b.refused(pgsource.Config{DatabaseURL: as(t, b.url, "reactor")}); !strings.Contains(why, `about "public"."jobs"`) || !strings.Contains(why, "reactor.jobs") && !strings.Contains(why, `"reactor"."jobs"`) {
			t.Errorf("with an empty reactor.jobs in front: %s", why)
		}
		b.exec("DROP TABLE reactor.jobs")
		b.start(as(t, b.url, "reactor"))
		if batch := b.claim([]int64{1}); len(batch.Jobs) != 1 {
			t.Errorf("claimed %+v", batch)
		}
	})
}

// TestForeignTable: a table jobs of another program is not changed, and the migration leaves
// nothing behind.
func TestForeignTable(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec("DROP TABLE jobs; DROP SCHEMA reactor CASCADE; CREATE TABLE jobs (id bigint, queue text, payload text)")
	for range 2 { // the second attempt does the same
		_, err := pgsource.MigrateUp(b.ctx, b.url)
		if err == nil || !strings.Contains(err.Error(), "public.jobs already, and it is not reactor's: rename it, or name another table as pgsource.Config.JobsTable") || !strings.Contains(err.Error(), "search_path") || strings.Contains(err.Error(), "\n") {
			t.Errorf("migrating says %v", err)
		}
	}
	if n := b.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'reactor'"); n != 0 {
		t.Error("schema reactor was left behind")
	}
	if why := b.refused(pgsource.Config{DatabaseURL: b.url}); !strings.Contains(why, "run `reactor migrate up`") {
		t.Error(why)
	}
	b.exec("ALTER TABLE jobs RENAME TO queue")
	b.migrateUp(b.url)
}

// TestTableIsGone: the error names the table by its schema.
func TestTableIsGone(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec("ALTER TABLE jobs RENAME TO other")
	if why := b.refused(pgsource.Config{DatabaseURL: b.url}); !strings.Contains(why, `"public"."jobs"`) || !strings.Contains(why, `"public"."other" has its triggers`) {
		t.Error(why)
	}
	b.exec("DROP TABLE other")
	if why := b.refused(pgsource.Config{DatabaseURL: b.url}); !strings.Contains(why, "run `reactor migrate up` to create it again") {
		t.Error(why)
	}
	if names := b.migrateUp(b.url); len(names) != 0 {
		t.Errorf("a start has applied %v", names)
	}
	for _, want := range []string{`"public"."jobs"`, ""} {
		if name, err := pgsource.RestoreTable(b.ctx, b.url); err != nil || name != want {
			t.Errorf("restored %q, %v; want %q", name, err, want)
		}
	}
	b.start(b.url)
	b.wholePath()
}

// TestTableMoves: the table's schema is renamed, or the table moves to another schema. Instances find
// it when they start, and while they run.
func TestTableMoves(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec("CREATE SCHEMA app; ALTER TABLE jobs SET SCHEMA app")
	b.start(b.url)
	b.exec("SET search_path = app")
	b.wholePath()
	b.exec("ALTER SCHEMA app RENAME TO renamed; SET search_path = renamed")
	ids := b.insert(1, "-1 second")
	batch, err := b.Claim(b.ctx, b.request(ids))
	if err == nil {
		t.Error("the claim finds a table that is not there")
	}
	for ; err != nil; batch, err = b.Claim(b.ctx, b.request(ids)) {
		if _, beatErr := b.member.Beat(b.ctx); beatErr != nil {
			t.Fatal(beatErr, err)
		}
	}
	if len(batch.Jobs) != 1 {
		t.Errorf("claimed %+v", batch)
	}
}

// TestTableMovesBeforeAMigration: no instance has run since the move, so the record is outdated. The
// scripts find the table, and create no empty one at the old place.
func TestTableMovesBeforeAMigration(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec("CREATE SCHEMA app; ALTER TABLE jobs SET SCHEMA app")
	b.exec("BEGIN;" + schema.Migrations[0].Up + schema.Migrations[1].Up + "COMMIT; RESET search_path")
	if n := b.count("SELECT count(*) FROM pg_class WHERE relname = 'jobs'"); n != 1 {
		t.Errorf("there are %d tables", n)
	}
	b.start(b.url)
	b.exec("SET search_path = app")
	b.wholePath()
}

// TestOwnerMigrates: the owner of the schema and its tables needs no right to create objects in the
// database.
func TestOwnerMigrates(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec("DROP TABLE jobs; DROP SCHEMA reactor CASCADE")
	role, url := b.role("")
	b.exec("CREATE SCHEMA reactor AUTHORIZATION " + role + "; GRANT CREATE ON SCHEMA public TO " + role)
	b.migrateUp(url)
	b.exec("DELETE FROM reactor.schema_version WHERE version_id = 3")
	if names := b.migrateUp(url); len(names) != 1 {
		t.Errorf("applied %v", names)
	}
}

// TestTemporarySchemaFirst: a table in the temporary schema would end with the migration's session.
func TestTemporarySchemaFirst(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec("DROP TABLE jobs; DROP SCHEMA reactor CASCADE")
	b.migrateUp(with(t, b.url, "search_path", "pg_temp,public"))
	b.start(b.url)
	b.wholePath()
}

// TestStrangersTable: the triggers of a table run as the role that writes to it. So a table jobs that a
// producer has created first is not used.
func TestStrangersTable(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec("ALTER TABLE jobs RENAME TO mine; DROP SCHEMA reactor CASCADE; CREATE TABLE jobs (LIKE mine INCLUDING ALL); DROP TABLE mine")
	role, _ := b.role("")
	b.exec("ALTER TABLE jobs OWNER TO " + role)
	if _, err := pgsource.MigrateUp(b.ctx, b.url); err == nil || !strings.Contains(err.Error(), "belongs to role "+role) {
		t.Errorf("migrating says %v", err)
	}
	b.exec("ALTER TABLE jobs OWNER TO CURRENT_USER")
	b.migrateUp(b.url)
}

// TestCopiedTable: the rows of a copy without the generated column would never be found.
func TestCopiedTable(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec("ALTER TABLE jobs RENAME TO old; CREATE TABLE jobs AS SELECT * FROM old; DROP TABLE old")
	if why := b.refused(pgsource.Config{DatabaseURL: b.url}); !strings.Contains(why, "the column shard") {
		t.Error(why)
	}
	b.exec("DROP SCHEMA reactor CASCADE")
	if _, err := pgsource.MigrateUp(b.ctx, b.url); err == nil || !strings.Contains(err.Error(), "not reactor's") {
		t.Errorf("migrating says %v", err)
	}
}

// TestColumnIsGone: without a column every statement would fail.
func TestColumnIsGone(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec("ALTER TABLE jobs RENAME COLUMN topic TO subject")
	if why := b.refused(pgsource.Config{DatabaseURL: b.url}); !strings.Contains(why, "has no column topic any more") {
		t.Error(why)
	}
}

// TestRuleOnTheTable: with a rule on updates no claim would succeed.
func TestRuleOnTheTable(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	b.exec("CREATE TABLE audit (id bigint); CREATE RULE audited AS ON UPDATE TO jobs DO ALSO INSERT INTO audit VALUES (NEW.id)")
	if why := b.refused(pgsource.Config{DatabaseURL: b.url}); !strings.Contains(why, "drop the rule") {
		t.Error(why)
	}
}

// TestOurTableIsGone: a missing table of schema reactor is not reported as a missing right.
func TestOurTableIsGone(t *testing.T) {
	for _, name := range []string{"instances", "shards", "lanes", "in_flight", "retries", "failed_jobs"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := examine(t, testkit.NewDatabase(t))
			b.exec("DROP TABLE reactor." + name)
			if why := b.refused(pgsource.Config{DatabaseURL: b.url}); !strings.Contains(why, "reactor."+name+" is not there") || strings.Contains(why, "GRANT") {
				t.Error(why)
			}
			// The remedy in the error works.
			b.exec(schema.Migrations[0].Up + schema.Migrations[1].Up)
			b.start(b.url)
		})
	}
}

// TestDownNamesWhatIsLost: migrate down drops the deployment's own table, wherever the search path
// leads, and refuses while instances run.
func TestDownNamesWhatIsLost(t *testing.T) {
	b := newBench(t)
	b.insert(3, "1 hour")
	// One job is claimed, and it is not known whether it was published.
	b.exec(`UPDATE jobs SET processed = true WHERE id = 1; CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.jobs (id int);
		INSERT INTO reactor.in_flight (lane, epoch, token, qos, first_slot, job_ids) VALUES (1, 1, gen_random_uuid(), 2, 1, '{1}')`)
	url := with(t, b.url, "search_path", "elsewhere")
	if _, err := pgsource.PlanDown(b.ctx, url); err == nil || !strings.Contains(err.Error(), "instances are running") {
		t.Fatalf("with a living instance: %v", err)
	}
	if _, err := pgsource.MigrateDown(b.ctx, url, pgsource.DownPlan{Version: 3, Name: "identity"}); err == nil {
		t.Fatal("undone under a running instance")
	}
	if err := b.member.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	for {
		plan, err := pgsource.PlanDown(b.ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		if plan.Version == 1 && plan.Loses != `the table "public"."jobs" with 3 jobs, 3 of them not published yet, and the records of 0 failed ones` {
			t.Errorf("it would lose %q", plan.Loses)
		}
		if plan.Version > 1 && plan.Loses != "" {
			t.Errorf("version %d would lose %q", plan.Version, plan.Loses)
		}
		if _, err := pgsource.MigrateDown(b.ctx, url, plan); err != nil {
			t.Fatal(err)
		}
		if plan.Version == 1 {
			break
		}
	}
	if n := b.count("SELECT count(*) FROM pg_class WHERE relname = 'jobs' AND relnamespace = 'elsewhere'::regnamespace"); n != 1 {
		t.Error("a foreign table was dropped")
	}
	if n := b.count("SELECT count(*) FROM pg_class WHERE relname = 'jobs' AND relnamespace = 'public'::regnamespace"); n != 0 {
		t.Error("our table is still there")
	}
}

// TestDownLeavesAForeignTable: another table has the name of ours since then.
func TestDownLeavesAForeignTable(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	for range len(schema.Migrations) - 1 { // down to the first version
		plan, err := pgsource.PlanDown(b.ctx, b.url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pgsource.MigrateDown(b.ctx, b.url, plan); err != nil {
			t.Fatal(err)
		}
	}
	b.exec("DROP TABLE jobs")
	for _, foreign := range []string{"VIEW jobs AS SELECT 1::smallint AS shard", "TABLE jobs (id int)"} {
		b.exec("DROP VIEW IF EXISTS jobs; CREATE " + foreign)
		if plan, err := pgsource.PlanDown(b.ctx, b.url); err == nil || !strings.Contains(err.Error(), "not reactor's any more") {
			t.Errorf("%+v, %v", plan, err)
		}
	}
	if n := b.count("SELECT count(*) FROM pg_class WHERE relname = 'jobs'"); n != 1 {
		t.Error("a foreign table was dropped")
	}
}
