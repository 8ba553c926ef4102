package pgsource_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// examined are the findings about a database; the findings of the same check are joined.
func examined(t *testing.T, ctx context.Context, cfg pgsource.Config) map[string]driver.Finding {
	t.Helper()
	list, err := pgsource.ExamineFor(ctx, cfg, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]driver.Finding{}
	for _, f := range list {
		testkit.CheckFinding(t, f)
		if was, ok := found[f.Check]; ok {
			f.Verdict, f.What, f.Remedy = max(f.Verdict, was.Verdict), was.What+"; "+f.What, was.Remedy+"; "+f.Remedy
		}
		found[f.Check] = f
	}
	return found
}

// TestExamineSound: on a server and a table that are as they should be, nothing is found.
func TestExamineSound(t *testing.T) {
	t.Parallel()
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true, Durable: true})
	b := examine(t, server.URL())
	b.migrateUp(b.url)
	role, url := b.role("")
	b.grant(role)
	list, err := pgsource.Examine(b.ctx, pgsource.Config{DatabaseURL: url})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if f.Verdict != driver.Fine || f.Remedy != "" {
			t.Errorf("%+v", f)
		}
	}
	if len(list) < 21 {
		t.Errorf("only %d questions were asked", len(list))
	}
	// The notification is all that takes a transaction.
	before := b.newestTransaction()
	examined(t, b.ctx, pgsource.Config{DatabaseURL: url, Feed: pgsource.FeedPoll})
	if after := b.newestTransaction(); after != before {
		t.Errorf("something was changed: the next transaction is %s, and was %s", after, before)
	}
}

// newestTransaction is the number of the next transaction that changes anything.
func (b *bench) newestTransaction() string {
	b.t.Helper()
	var next string
	if err := b.conn.QueryRow(b.ctx, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text").Scan(&next); err != nil {
		b.t.Fatal(err)
	}
	return next
}

// TestExamineBroken: set-ups that are broken for real, each in a database of its own.
func TestExamineBroken(t *testing.T) {
	t.Parallel()
	const (
		problem = driver.Problem
		warning = driver.Warning
	)
	for _, c := range []struct {
		name         string
		breaks       string // as the owner; ROLE is the instance's
		superuser    bool   // examine as the owner
		feed         pgsource.Feed
		check        string
		verdict      driver.Verdict
		what, remedy string
	}{
		{name: "no schema", breaks: "DROP TABLE jobs; DROP SCHEMA reactor CASCADE", check: "schema", verdict: problem, what: "not in this database", remedy: "reactor migrate up"},
		{name: "no schema, no rights", breaks: "DROP TABLE jobs; DROP SCHEMA reactor CASCADE", check: "rights", verdict: warning, what: "may not create the schema", remedy: "GRANT CREATE ON DATABASE"},
		{name: "no schema, and a place behind the search path", breaks: "DROP TABLE jobs; DROP SCHEMA reactor CASCADE; CREATE SCHEMA other; CREATE TABLE other.deployment (jobs_schema name); GRANT ALL ON SCHEMA other, public TO ROLE; ALTER ROLE ROLE SET search_path = other; DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO ROLE', current_database()); END $$", check: "rights", verdict: driver.Fine, what: "may create the schema and the table"},
		{name: "no schema, and a schema that is another deployment's", breaks: "DROP TABLE jobs; DROP SCHEMA reactor CASCADE; REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE SCHEMA other; CREATE TABLE other.deployment (jobs_schema name); GRANT ALL ON SCHEMA other TO ROLE; ALTER ROLE ROLE SET search_path = other; DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO ROLE', current_database()); END $$", check: "rights", verdict: warning, what: "may not create", remedy: "run GRANT CREATE ON SCHEMA public TO ROLE"},
		{name: "no schema, no place for the table", breaks: "DROP TABLE jobs; DROP SCHEMA reactor CASCADE; REVOKE CREATE ON SCHEMA public FROM PUBLIC; DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO ROLE', current_database()); END $$", check: "rights", verdict: warning, what: "may not create", remedy: "run GRANT CREATE ON SCHEMA public TO ROLE"},
		{name: "foreign table", breaks: "DROP TABLE jobs; DROP SCHEMA reactor CASCADE; CREATE TABLE jobs (id bigint, queue text)", check: "table", verdict: problem, what: "public.jobs is there already, and it is somebody else's", remedy: "rename it"},
		{name: "earlier version", breaks: "DELETE FROM reactor.schema_version WHERE version_id = 6", check: "schema", verdict: problem, what: "6 (managed)", remedy: "reactor migrate up"},
		{name: "later version", breaks: "INSERT INTO reactor.schema_version (version_id, is_applied) VALUES (99, true)", check: "schema", verdict: problem, what: "version 99", remedy: "upgrade reactor"},
		{name: "by psql", breaks: "DELETE FROM reactor.schema_version", check: "schema", verdict: driver.Fine, what: "made by the SQL files"},
		{name: "no rights", breaks: "REVOKE UPDATE ON jobs FROM ROLE; REVOKE INSERT ON reactor.retries FROM ROLE", check: "rights", verdict: problem, what: "lacks rights", remedy: "GRANT UPDATE ON public.jobs TO ROLE; GRANT INSERT ON reactor.retries TO ROLE"},
		{name: "no rights at all", breaks: "REVOKE ALL ON jobs FROM ROLE; REVOKE ALL ON ALL TABLES IN SCHEMA reactor FROM ROLE; REVOKE ALL ON SCHEMA reactor FROM ROLE", check: "rights", verdict: problem, what: "lacks rights", remedy: "GRANT USAGE ON SCHEMA reactor"},
		{name: "versions not readable", breaks: "REVOKE ALL ON reactor.schema_version FROM ROLE", check: "schema", verdict: problem, what: "--no-migrate", remedy: "GRANT SELECT ON reactor.schema_version TO ROLE"},
		{name: "column dropped", breaks: "ALTER TABLE jobs DROP headers", check: "table", verdict: problem, what: "no column headers", remedy: "--repair"},
		{name: "column dropped that nobody can make again", breaks: "ALTER TABLE jobs DROP processed CASCADE", check: "table", verdict: problem, what: "no column processed", remedy: "from a backup"},
		{name: "column of another table dropped", breaks: "ALTER TABLE reactor.retries DROP attempts, DROP ordering CASCADE", check: "columns", verdict: problem, what: "reactor.retries has lost the column attempts", remedy: "DROP TABLE reactor.retries"},
		{name: "times without a zone", breaks: "ALTER TABLE jobs ALTER fire_at TYPE timestamp", check: "table", verdict: problem, what: `the column fire_at of the table "public"."jobs" is no timestamptz`, remedy: "AT TIME ZONE"},
		{name: "another type", breaks: "ALTER TABLE jobs ALTER qos TYPE integer, ALTER topic TYPE varchar(200)", check: "columns", verdict: warning, what: `the column qos of "public"."jobs" is integer, and was smallint`, remedy: "ALTER COLUMN qos TYPE smallint"},
		{name: "function dropped", breaks: "DROP FUNCTION reactor.next_in_order", check: "functions", verdict: problem, what: "next_in_order", remedy: "--repair"},
		{name: "signature dropped", breaks: "DROP FUNCTION reactor.cancel(bigint)", check: "functions", verdict: problem, what: "gone: cancel", remedy: "--repair"},
		{name: "shards deleted", breaks: "TRUNCATE reactor.shards", check: "shards", verdict: problem, what: "0 rows instead of 64", remedy: "--repair"},
		{name: "primary key dropped", breaks: "ALTER TABLE jobs DROP CONSTRAINT jobs_pkey", check: "indexes", verdict: problem, what: "the primary key", remedy: "ADD PRIMARY KEY (id)"},
		{name: "dates of another country", breaks: "ALTER ROLE ROLE SET DateStyle = 'SQL, DMY'", check: "clock", verdict: driver.Fine, what: "this host's"},
		{name: "second table", breaks: "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO ROLE; CREATE TABLE app.jobs (LIKE jobs INCLUDING ALL); ALTER ROLE ROLE SET search_path = app, public", check: "table", verdict: problem, what: "two tables of jobs", remedy: "drop the one that is not used"},
		{name: "moved table", breaks: "CREATE SCHEMA app; ALTER TABLE jobs SET SCHEMA app", check: "table", verdict: warning, what: `has moved to "app"."jobs"`, remedy: "next start"},
		{name: "row-level security", breaks: "ALTER TABLE jobs ENABLE ROW LEVEL SECURITY", check: "row-level security", verdict: problem, what: "hides rows", remedy: "BYPASSRLS"},
		{name: "row-level security of ours", breaks: "ALTER TABLE reactor.retries ENABLE ROW LEVEL SECURITY", check: "row-level security", verdict: problem, what: "reactor.retries", remedy: "DISABLE ROW LEVEL SECURITY"},
		{name: "policies and a superuser", breaks: "ALTER TABLE jobs ENABLE ROW LEVEL SECURITY", superuser: true, check: "row-level security", verdict: driver.Fine, what: "exempt"},
		{name: "children", breaks: "CREATE TABLE child () INHERITS (jobs)", check: "partitions", verdict: warning, what: "1 tables inherit", remedy: "insert into"},
		{name: "unlogged", breaks: "ALTER TABLE jobs SET UNLOGGED", check: "durability", verdict: problem, what: "public.jobs", remedy: "SET LOGGED"},
		{name: "index dropped", breaks: "DROP INDEX jobs_pending", check: "indexes", verdict: problem, what: "jobs_pending", remedy: "--repair"},
		{name: "trigger dropped", breaks: "DROP TRIGGER reactor_jobs_inserted ON jobs", check: "triggers", verdict: problem, what: "neither both triggers", remedy: "reactor migrate feed notify"},
		{name: "trigger disabled", breaks: "ALTER TABLE jobs DISABLE TRIGGER reactor_jobs_updated", check: "triggers", verdict: problem, what: "disabled: reactor_jobs_updated", remedy: "ENABLE TRIGGER reactor_jobs_updated"},
		{name: "old triggers", breaks: schema.AnnounceDown, check: "triggers", verdict: warning, what: "of an earlier version", remedy: "reactor migrate up"},
		{name: "no trigger needed", breaks: schema.TriggersDown, feed: pgsource.FeedPoll, check: "triggers", verdict: driver.Fine, what: "nobody needs them"},
		{name: "trigger of others", breaks: "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER audited BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION audit()", check: "other triggers", verdict: warning, what: "audited (public.audit())", remedy: "SET search_path"},
		{name: "asynchronous commits", breaks: "ALTER ROLE ROLE SET synchronous_commit = off", check: "settings", verdict: warning, what: "synchronous_commit is off", remedy: "ALTER ROLE ROLE RESET synchronous_commit"},
		{name: "isolation", breaks: "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$", check: "settings", verdict: warning, what: "serializable", remedy: "ALTER DATABASE test_"},
		{name: "triggers switched off", breaks: "ALTER ROLE ROLE SET session_replication_role = replica", check: "settings", verdict: problem, what: "session_replication_role", remedy: "RESET session_replication_role"},
		{name: "read-only", breaks: "ALTER ROLE ROLE SET default_transaction_read_only = on", check: "server", verdict: problem, what: "read-only", remedy: "switch it back"},
		{name: "autovacuum", breaks: "ALTER TABLE jobs SET (autovacuum_enabled = off)", check: "autovacuum", verdict: problem, what: "public.jobs", remedy: "ALTER TABLE public.jobs RESET (autovacuum_enabled)"},
		{name: "dead rows", breaks: "ALTER TABLE jobs SET (autovacuum_enabled = off); INSERT INTO jobs (topic, fire_at, processed) SELECT 't', now(), true FROM generate_series(1, 10100); DELETE FROM jobs; SELECT pg_stat_force_next_flush()", check: "dead rows", verdict: warning, what: "public.jobs has 10100 dead rows", remedy: "VACUUM public.jobs"},
		{name: "connections of the role", breaks: "ALTER ROLE ROLE CONNECTION LIMIT 5", check: "connections", verdict: problem, what: "is allowed 5", remedy: "CONNECTION LIMIT 9"},
		{name: "WAL feed", feed: pgsource.FeedWAL, check: "WAL feed", verdict: problem, what: "may not replicate", remedy: "ALTER ROLE … REPLICATION"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := examine(t, testkit.NewDatabase(t))
			role, url := b.role("")
			b.grant(role)
			of := strings.NewReplacer("ROLE ROLE", "ROLE "+role, "FROM ROLE", "FROM "+role, "TO ROLE", "TO "+role).Replace
			b.script(of(c.breaks))
			if c.superuser {
				url = b.url
			}
			testkit.ExpectFinding(t, examined(t, b.ctx, pgsource.Config{DatabaseURL: url, Feed: c.feed}), c.check, c.verdict, c.what, of(c.remedy))
		})
	}
}

// TestRepair: what the remedy of the findings above makes again, and that it changes nothing else.
func TestRepair(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.script("INSERT INTO jobs (topic, fire_at) VALUES ('kept', now() + interval '1 hour')")
	b.script("DROP TRIGGER reactor_jobs_inserted ON jobs; DROP INDEX jobs_pending; ALTER TABLE jobs DROP headers; DROP FUNCTION reactor.next_in_order, reactor.cancel(bigint); DROP TABLE reactor.lanes; TRUNCATE reactor.shards")
	if err := pgsource.Repair(b.ctx, b.url); err != nil {
		t.Fatal(err)
	}
	for _, f := range examined(t, b.ctx, pgsource.Config{DatabaseURL: b.url}) {
		if f.Verdict == driver.Problem {
			t.Errorf("after the repair: %+v", f)
		}
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE topic = 'kept'"); n != 1 {
		t.Errorf("%d rows of one are left", n)
	}
	if n := b.count("SELECT count(*) FROM pg_proc WHERE pronamespace = 'reactor'::regnamespace AND proname IN ('next_in_order', 'cancel')"); n != 3 {
		t.Errorf("%d of three functions are there", n)
	}
	role, url := b.role("")
	b.grant(role)
	if err := pgsource.Repair(b.ctx, url); err == nil || !strings.Contains(err.Error(), "as the owner of the database") {
		t.Errorf("by a role that may not: %v", err)
	}
}

// script runs a text of several statements, as psql does.
func (b *bench) script(text string) {
	b.t.Helper()
	conn := connect(b.t, b.ctx, b.url)
	if err := conn.PgConn().Exec(b.ctx, text).Close(); err != nil {
		b.t.Fatal(err)
	}
	conn.Close(b.ctx)
}

// TestExamineUnreachable: what is behind the first question is not asked, and the last line says so.
func TestExamineUnreachable(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	for _, c := range []struct{ key, value, what, remedy string }{
		{"port", "1", "cannot connect to", "is PostgreSQL running there"},
		{"user", "nobody_has_this", "does not exist", "check user and password"},
		{"dbname", "nobody_has_this", "does not exist", "create the database"},
	} {
		found := examined(t, b.ctx, pgsource.Config{DatabaseURL: with(t, b.url, c.key, c.value)})
		testkit.ExpectFinding(t, found, "database", driver.Problem, c.what, c.remedy)
		testkit.ExpectFinding(t, found, "everything else", driver.Unknown, "were not asked", "")
		if len(found) != 2 {
			t.Errorf("%s: %d findings: %v", c.key, len(found), found)
		}
	}
	var bad *driver.ConfigError
	if _, err := pgsource.Examine(b.ctx, pgsource.Config{DatabaseURL: "nonsense"}); !errors.As(err, &bad) || bad.Field != "DatabaseURL" {
		t.Errorf("a URL that is none: %v", err)
	}
}

// TestExamineServer: what others hold, and what a server allows.
func TestExamineServer(t *testing.T) {
	t.Parallel()
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true, Settings: map[string]string{
		"max_prepared_transactions": "5", "autovacuum": "off", "max_connections": "12", "superuser_reserved_connections": "1", "wal_level": "logical",
	}})
	b := examine(t, server.URL())
	b.migrateUp(b.url)
	role, url := b.role("")
	b.grant(role)
	// A snapshot of a session, and one of a transaction that was prepared and forgotten.
	idle := connect(t, b.ctx, b.url)
	for _, sql := range []string{"SET application_name = 'report'", "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT FROM jobs"} {
		if _, err := idle.Exec(b.ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	b.script("BEGIN; CREATE TABLE draft (); PREPARE TRANSACTION 'forgotten'")
	found := examined(t, b.ctx, pgsource.Config{DatabaseURL: url})
	testkit.ExpectFinding(t, found, "two-phase commit", driver.Warning, "PREPARE TRANSACTION fails", "reactor migrate feed wal")
	testkit.ExpectFinding(t, found, "oldest snapshot", driver.Warning, "prepared transaction 'forgotten'", "ROLLBACK PREPARED 'forgotten'")
	testkit.ExpectFinding(t, found, "autovacuum", driver.Problem, "switched off in the server", "ALTER SYSTEM SET autovacuum = on")
	testkit.ExpectFinding(t, found, "settings", driver.Warning, "fsync is off", "ALTER SYSTEM RESET fsync")
	testkit.ExpectFinding(t, found, "connections", driver.Warning, "of 12 are in use", "max_connections")
	testkit.ExpectFinding(t, found, "WAL feed", driver.Fine, "not possible, and not needed: role \""+role+"\" may not replicate", "")
	// A superuser sees whose snapshot it is, and may read the server's log.
	found = examined(t, b.ctx, pgsource.Config{DatabaseURL: b.url})
	testkit.ExpectFinding(t, found, "oldest snapshot", driver.Warning, "'report', idle in transaction", "pg_terminate_backend")
	testkit.ExpectFinding(t, found, "WAL feed", driver.Fine, "possible", "")
	b.exec("ROLLBACK PREPARED 'forgotten'")
	idle.Close(b.ctx)
	// Without triggers, and published.
	b.script(schema.PublicationsUp + schema.TriggersDown)
	found = examined(t, b.ctx, pgsource.Config{DatabaseURL: b.url})
	testkit.ExpectFinding(t, found, "triggers", driver.Fine, "instances read the server's log", "")
	testkit.ExpectFinding(t, found, "notification", driver.Fine, "not needed", "")
	testkit.ExpectFinding(t, found, "two-phase commit", driver.Fine, "no trigger", "")
	testkit.ExpectFinding(t, found, "WAL feed", driver.Fine, "possible, and the table is published", "")
	if found = examined(t, b.ctx, pgsource.Config{DatabaseURL: url}); found["WAL feed"].Verdict != driver.Problem {
		t.Errorf("needed, and not possible: %+v", found["WAL feed"])
	}
}

// TestExaminePartitions: those that reactor maintains, and what may be missing of them.
func TestExaminePartitions(t *testing.T) {
	t.Parallel()
	b := converted(t, "")
	found := examined(t, b.ctx, pgsource.Config{DatabaseURL: b.url})
	testkit.ExpectFinding(t, found, "partitions", driver.Fine, "each for 24h0m0s", "")
	testkit.ExpectFinding(t, found, "indexes", driver.Fine, "valid", "")
	b.exec("UPDATE reactor.deployment SET partition_interval = '1 hour'; ")
	b.exec("DROP TABLE jobs_default")
	testkit.ExpectFinding(t, examined(t, b.ctx, pgsource.Config{DatabaseURL: b.url}), "partitions", driver.Problem, "none by default", "PARTITION OF")
	b.exec("UPDATE reactor.deployment SET partition_interval = NULL")
	testkit.ExpectFinding(t, examined(t, b.ctx, pgsource.Config{DatabaseURL: b.url}), "partitions", driver.Warning, "does not maintain", "reactor partitions convert")
}

// TestExaminePooler: behind a pooler in transaction mode no notification arrives, and everything else is
// answered as on a direct connection. With a direct connection for the feed nothing is missing.
func TestExaminePooler(t *testing.T) {
	t.Parallel()
	b, pooler := pooled(t, stack.PgBouncerConfig{PoolSize: 4})
	b.migrateUp(b.url)
	found := examined(t, b.ctx, pgsource.Config{DatabaseURL: pooler.URL()})
	testkit.ExpectFinding(t, found, "server", driver.Fine, "a pooler is in between", "")
	testkit.ExpectFinding(t, found, "notification", driver.Problem, "leads through a pooler", "pgsource.Config.ListenURL")
	testkit.ExpectFinding(t, found, "connections", driver.Fine, "the pooler's", "")
	found = examined(t, b.ctx, pgsource.Config{DatabaseURL: pooler.URL(), ListenURL: b.url})
	testkit.ExpectFinding(t, found, "notification", driver.Fine, "arrives", "")
	for _, f := range found {
		if f.Verdict > driver.Warning {
			t.Errorf("%+v", f)
		}
	}
	// An address of another database is not noticed by anything else.
	b.exec("CREATE DATABASE elsewhere")
	found = examined(t, b.ctx, pgsource.Config{DatabaseURL: b.url, ListenURL: with(t, b.url, "dbname", "elsewhere")})
	testkit.ExpectFinding(t, found, "notification", driver.Problem, "does not arrive", "the same database")
}

// TestExamineCopy: a copy of a database is told from its original, and nothing is changed in it.
func TestExamineCopy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	testkit.ExpectFinding(t, examined(t, b.ctx, pgsource.Config{DatabaseURL: b.url}), "deployment", driver.Fine, "begin with reactor-", "")
	b.exec("UPDATE reactor.deployment SET database = database::int8 + 1")
	name := b.count("SELECT hashtext(name) FROM reactor.deployment")
	testkit.ExpectFinding(t, examined(t, b.ctx, pgsource.Config{DatabaseURL: b.url}), "deployment", driver.Warning, "a copy of another", "delete the jobs")
	if b.count("SELECT hashtext(name) FROM reactor.deployment") != name {
		t.Error("the deployment was renamed")
	}
}

func TestExamineQueue(t *testing.T) {
	t.Parallel()
	for used, want := range map[float64]driver.Verdict{0: driver.Fine, 0.09: driver.Fine, 0.2: driver.Warning, 0.9: driver.Problem} {
		if f := pgsource.QueueFinding(used); f.Verdict != want || (f.Remedy == "") != (want == driver.Fine) {
			t.Errorf("%v: %+v", used, f)
		}
	}
}
