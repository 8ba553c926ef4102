package pgsource_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/naming"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// bare is a bench on a database with nothing of the default deployment.
func bare(t *testing.T) *bench {
	t.Helper()
	b := examine(t, testkit.NewDatabase(t))
	b.exec("DROP TABLE jobs; DROP SCHEMA reactor CASCADE")
	return b
}

// TestWordsOfSQLAreRefused: every name that this server would want in quotes.
func TestWordsOfSQLAreRefused(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	rows, err := b.conn.Query(b.ctx, "SELECT word FROM pg_get_keywords() WHERE quote_ident(word) <> word")
	if err != nil {
		t.Fatal(err)
	}
	words, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(words) < 100 {
		t.Fatalf("%d words, %v", len(words), err)
	}
	for _, word := range words {
		if _, err := naming.New(word, ""); err == nil {
			t.Errorf("a schema may be called %s", word)
		}
	}
	// A word that PostgreSQL does not keep for itself is a name like others.
	names := pgsource.Names{Schema: "text", JobsTable: "schedule"}
	if _, err := pgsource.MigrateUp(b.ctx, b.url, names); err != nil {
		t.Error(err)
	}
}

// TestTableInTheSearchPath: a table that is given without its schema is created and found by the search path,
// beside tables of the default deployment, and is found again where it has moved.
func TestTableInTheSearchPath(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec("CREATE SCHEMA shop")
	url := with(t, b.url, "search_path", "shop,public")
	names := pgsource.Names{Schema: "zq", JobsTable: "reminders"}
	if _, err := pgsource.MigrateUp(b.ctx, url, names); err != nil {
		t.Fatal(err)
	}
	open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Schema: "zq", JobsTable: "reminders"})
	open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Schema: "zq", JobsTable: "shop.reminders"})
	open(t, b.ctx, pgsource.Config{DatabaseURL: url})
	b.exec("CREATE SCHEMA later; ALTER TABLE shop.reminders SET SCHEMA later")
	open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Schema: "zq", JobsTable: "reminders"})
	if why := b.refused(pgsource.Config{DatabaseURL: b.url, Schema: "zq", JobsTable: "shop.reminders"}); !strings.Contains(why, "later.reminders") {
		t.Error(why)
	}
	b.exec("DROP TABLE later.reminders; DROP SCHEMA later")
	if why := b.refused(pgsource.Config{DatabaseURL: b.url, Schema: "zq", JobsTable: "reminders"}); !strings.Contains(why, `"later"."reminders"`) {
		t.Error(why)
	}
}

// TestNoTableInTheSchemaOfADeployment: a role called reactor finds that schema first, where it exists. The
// table of another deployment does not belong there.
func TestNoTableInTheSchemaOfADeployment(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	names := pgsource.Names{Schema: "zq", JobsTable: "reminders"}
	if _, err := pgsource.MigrateUp(b.ctx, with(t, b.url, "search_path", "reactor,public"), names); err != nil {
		t.Fatal(err)
	}
	if n := b.count("SELECT count(*) FROM zq.deployment WHERE jobs_schema = 'public'"); n != 1 {
		t.Error("the table is among the tables of the other deployment")
	}
	_, err := pgsource.MigrateUp(b.ctx, b.url, pgsource.Names{Schema: "zr", JobsTable: "reactor.reminders"})
	if err == nil || !strings.Contains(err.Error(), "the schema reactor holds the own tables of a deployment") {
		t.Errorf("given its schema: %v", err)
	}
}

// TestSecondTableOfNobody: a table jobs in the search path that no other deployment has is still refused,
// whether a deployment has other tables or not.
func TestSecondTableOfNobody(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec("CREATE SCHEMA shop; CREATE SCHEMA app")
	if _, err := pgsource.MigrateUp(b.ctx, b.url, pgsource.Names{Schema: "zq", JobsTable: "app.jobs"}); err != nil {
		t.Fatal(err)
	}
	toApp, toShop := with(t, b.url, "search_path", "app,public"), with(t, b.url, "search_path", "shop,public")
	open(t, b.ctx, pgsource.Config{DatabaseURL: toApp})
	b.exec("DROP TRIGGER zq_jobs_inserted ON app.jobs; DROP TRIGGER zq_jobs_updated ON app.jobs")
	open(t, b.ctx, pgsource.Config{DatabaseURL: toApp}) // the record says whose it is
	b.exec("CREATE TABLE shop.jobs (LIKE public.jobs INCLUDING ALL)")
	if why := b.refused(pgsource.Config{DatabaseURL: toShop}); !strings.Contains(why, "there are two tables of jobs") {
		t.Error(why)
	}
	open(t, b.ctx, pgsource.Config{DatabaseURL: toShop, JobsTable: "public.jobs"})
}

// TestTextsTakeNoTableOfAnother: the texts that people run with psql look as well.
func TestTextsTakeNoTableOfAnother(t *testing.T) {
	t.Parallel()
	b := bare(t)
	if _, err := pgsource.MigrateUp(b.ctx, b.url, pgsource.Names{Schema: "zq", JobsTable: "public.jobs"}); err != nil {
		t.Fatal(err)
	}
	_, err := b.conn.Exec(b.ctx, schema.SchemaUp)
	if err == nil || !strings.Contains(err.Error(), "the table public.jobs is that of the deployment in schema zq") {
		t.Errorf("the text says %v", err)
	}
	if _, err := pgsource.MigrateUp(b.ctx, b.url); err == nil {
		t.Error("the default deployment has taken the table")
	}
	b.exec("CREATE SCHEMA app; SET reactor.jobs_schema = 'app'")
	b.exec("BEGIN;" + schema.SchemaUp + "COMMIT; RESET search_path")
	if home := b.count("SELECT count(*) FROM reactor.deployment WHERE jobs_schema = 'app' AND jobs_table = 'jobs'"); home != 1 {
		t.Error("the text has not used the schema that was given")
	}
}

// TestBadNamesAreFields: where names come from a configuration.
func TestBadNamesAreFields(t *testing.T) {
	t.Parallel()
	for _, cfg := range []pgsource.Config{{DatabaseURL: "postgres://localhost/x", Schema: "A"}, {DatabaseURL: "postgres://localhost/x", JobsTable: "a.b.c"}} {
		var bad *driver.ConfigError
		if _, err := pgsource.New(cfg); !errors.As(err, &bad) || bad.Field == "" || bad.Value == nil {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	var bad *driver.ConfigError
	if _, err := pgsource.MigrateUp(t.Context(), "postgres://localhost/x", pgsource.Names{Schema: "a b"}); !errors.As(err, &bad) || bad.Field != "Schema" {
		t.Error(err)
	}
}

// TestOlderSchemasHaveTheDefaultTable: a version that does not record the name of the table.
func TestOlderSchemasHaveTheDefaultTable(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec("ALTER TABLE reactor.deployment DROP COLUMN jobs_table; DELETE FROM reactor.schema_version WHERE version_id = 6")
	b.exec("CREATE SCHEMA app")
	var bad *driver.ConfigError
	if _, err := pgsource.MigrateUp(b.ctx, b.url, pgsource.Names{JobsTable: "app.other"}); !errors.As(err, &bad) || !strings.Contains(bad.Problem, "public.jobs") {
		t.Errorf("another table: %v", err)
	}
	if _, err := b.conn.Exec(b.ctx, renamed(t, schema.SchemaUp, "reactor", "other")); err == nil || !strings.Contains(err.Error(), "the table public.jobs") {
		t.Errorf("another table, by the text: %v", err)
	}
	if names := b.migrateUp(b.url); len(names) != 1 {
		t.Errorf("applied %v", names)
	}
	if n := b.count("SELECT count(*) FROM reactor.deployment WHERE jobs_table = 'jobs'"); n != 1 {
		t.Error("the name of the table is not recorded")
	}
	// Another deployment sees whose the table is, also while its version is older.
	b.exec("ALTER TABLE reactor.deployment DROP COLUMN jobs_table; DROP TRIGGER reactor_jobs_inserted ON jobs; DROP TRIGGER reactor_jobs_updated ON jobs")
	if _, err := pgsource.MigrateUp(b.ctx, b.url, pgsource.Names{Schema: "zq", JobsTable: "public.jobs"}); err == nil || !strings.Contains(err.Error(), "is that of the deployment in schema reactor") {
		t.Errorf("the table of an older deployment: %v", err)
	}
}

// renamed returns a text for other names.
func renamed(t *testing.T, text, schema, table string) string {
	t.Helper()
	n, err := naming.New(schema, table)
	if err != nil {
		t.Fatal(err)
	}
	return n.In(text)
}

// TestGrantsAreForTheDeployment: the statement for a role that lacks rights names the tables of its own
// deployment, also where another one has a table with the same name.
func TestGrantsAreForTheDeployment(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec("CREATE SCHEMA app")
	if _, err := pgsource.MigrateUp(b.ctx, b.url, pgsource.Names{Schema: "zq", JobsTable: "app.jobs"}); err != nil {
		t.Fatal(err)
	}
	_, url := b.role("")
	for _, test := range []struct {
		cfg             pgsource.Config
		its, another    string
		schema, strange string
	}{
		{pgsource.Config{DatabaseURL: url, Schema: "zq", JobsTable: "app.jobs"}, " app.jobs", "public.jobs", " zq.lanes", "reactor."},
		{pgsource.Config{DatabaseURL: url}, " public.jobs", "app.jobs", " reactor.lanes", "zq."},
	} {
		why := b.refused(test.cfg)
		if !strings.Contains(why, test.its) || !strings.Contains(why, test.schema) || strings.Contains(why, test.another) || strings.Contains(why, test.strange) {
			t.Errorf("%s: %s", test.cfg.Schema, why)
		}
	}
}

// TestNamesBehindAPooler: the names belong to each text, and not to the session: two deployments use the
// same connections of the server in turn.
func TestNamesBehindAPooler(t *testing.T) {
	t.Parallel()
	b, pooler := pooled(t, stack.PgBouncerConfig{PoolSize: 8})
	b.exec("CREATE SCHEMA app")
	type one struct {
		b     *bench
		table string
		names pgsource.Names
	}
	both := []one{{table: "public.jobs"}, {table: "app.orders", names: pgsource.Names{Schema: "zq", JobsTable: "app.orders"}}}
	for i := range both {
		d := &both[i]
		if _, err := pgsource.MigrateUp(b.ctx, pooler.URL(), d.names); err != nil {
			t.Fatal(err)
		}
		d.b = examine(t, b.url)
		d.b.Source = open(t, b.ctx, pgsource.Config{DatabaseURL: pooler.URL(), ListenURL: b.url, Schema: d.names.Schema, JobsTable: d.names.JobsTable})
		d.b.member, d.b.lease = d.b.join(d.b.Source)
	}
	for range 20 {
		for i, d := range both {
			var id int64
			if err := b.conn.QueryRow(b.ctx, "INSERT INTO "+d.table+" (topic, payload, fire_at) VALUES ('t', $1, now()) RETURNING id", d.table).Scan(&id); err != nil {
				t.Fatal(err)
			}
			batch := d.b.claim([]int64{id})
			if len(batch.Jobs) != 1 || string(batch.Jobs[0].Payload) != d.table {
				t.Fatalf("deployment %d claims %+v", i, batch.Jobs)
			}
			d.b.published(batch)
			if _, err := d.b.member.Beat(b.ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := b.count("SELECT (SELECT count(*) FROM public.jobs WHERE processed) + (SELECT count(*) FROM app.orders WHERE processed)"); n != 40 {
		t.Errorf("%d of 40 jobs are processed", n)
	}
}
