package pgsource_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// roles creates the roles of a deployment as some user, and a user for each, and returns the URLs of these by the
// names of the roles without their prefix.
func (b *bench) roles(as string, of pgsource.Names) (r pgsource.Roles, urls map[string]string) {
	b.t.Helper()
	r = pgsource.Roles{DatabaseURL: as, Names: of, RolePrefix: fmt.Sprintf("p%d", roleNumber.Add(1))}
	if err := r.Create(b.ctx); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		for _, name := range r.List() {
			if _, err := b.conn.Exec(context.Background(), "DROP OWNED BY "+name+" CASCADE; DROP ROLE "+name); err != nil {
				b.t.Errorf("drop role: %v", err)
			}
		}
	})
	urls = map[string]string{}
	for _, name := range r.List() {
		user, url := b.role("")
		b.exec("GRANT " + name + " TO " + user)
		urls[name[strings.LastIndex(name, "_")+1:]] = url
	}
	return r, urls
}

// TestEveryTableHasItsRights: a table that is new is in the list of who reads and writes it, and each role gets what
// the commands that are for it need.
func TestEveryTableHasItsRights(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	rows, err := b.conn.Query(b.ctx, "SELECT relname::text FROM pg_class WHERE relnamespace = 'reactor'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')")
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 9 {
		t.Fatal(tables, err)
	}
	for _, role := range []string{"instance", "producer", "viewer"} {
		needs, gets := pgsource.NeededBy(role)
		for _, table := range tables {
			if _, known := gets[table]; !known {
				t.Errorf("nobody has said who reads and writes %s: ofTables in rights.go", table)
			}
		}
		for table, privileges := range needs {
			for privilege := range strings.SplitSeq(strings.TrimSuffix(privileges, ", "), ", ") {
				if !slices.Contains(strings.Split(gets[table], ", "), privilege) {
					t.Errorf("%s lacks %s on %s", role, privilege, table)
				}
			}
		}
		if n := len(gets) - len(tables); n != 2 {
			t.Errorf("%d tables are listed that are not there", n-2)
		}
	}
}

// TestRolesHaveExactlyTheirRights: on every table, in a deployment with names of its own and with partitions, also
// after they are created a second time, by somebody who is no superuser.
func TestRolesHaveExactlyTheirRights(t *testing.T) {
	t.Parallel()
	b := bare(t)
	admin, url := b.role("CREATEROLE")
	b.exec("CREATE SCHEMA app AUTHORIZATION " + admin + "; DO $$ BEGIN EXECUTE format('GRANT CREATE, CONNECT ON DATABASE %I TO " + admin + "', current_database()); END $$")
	of := pgsource.Names{Schema: "zq", JobsTable: "app.zt"}
	if _, err := pgsource.MigrateUp(b.ctx, url, of); err != nil {
		t.Fatal(err)
	}
	if err := pgsource.ConvertToPartitions(b.ctx, url, 24*time.Hour, of); err != nil {
		t.Fatal(err)
	}
	r, urls := b.roles(url, of)
	b.exec("GRANT TRUNCATE ON app.zt, zq.lanes TO " + r.List()[2] + "; GRANT INSERT ON zq.schedules TO " + r.List()[3] + "; GRANT CREATE ON SCHEMA app TO " + r.List()[2])
	for range 2 {
		if err := r.Create(b.ctx); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := b.conn.Query(b.ctx, `
		SELECT role, CASE WHEN nspname = 'zq' THEN relname::text WHEN relname = 'zt' THEN '*jobs' ELSE '*jobs/part' END,
		       array_to_string(ARRAY(SELECT privilege FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) WITH ORDINALITY AS p (privilege, place)
		              WHERE has_table_privilege($1 || '_' || role, c.oid, privilege) ORDER BY place), ', '), pg_get_userbyid(relowner)
		  FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace CROSS JOIN unnest('{instance,producer,viewer}'::text[]) AS role
		 WHERE nspname IN ('zq', 'app') AND relkind IN ('r', 'p') AND relname <> 'zt_before_partitions'`, r.RolePrefix)
	if err != nil {
		t.Fatal(err)
	}
	var role, table, has, owner string
	n := 0
	if _, err := pgx.ForEachRow(rows, []any{&role, &table, &has, &owner}, func() error {
		n++
		if _, gets := pgsource.NeededBy(role); has != gets[table] {
			t.Errorf("%s may %q on %s, and should %q", role, has, table, gets[table])
		}
		if owner != r.RolePrefix+"_owner" {
			t.Errorf("%s belongs to %s", table, owner)
		}
		return nil
	}); err != nil || n < 30 {
		t.Fatalf("%d, %v", n, err)
	}
	for _, role := range r.List()[1:] {
		if n := b.count("SELECT count(*) FROM unnest('{zq,app}'::text[]) AS name WHERE has_schema_privilege($1::text, name, 'CREATE') OR NOT has_schema_privilege($1::text, name, 'USAGE')", role); n != 0 {
			t.Errorf("%s has wrong rights on %d schemas", role, n)
		}
	}
	// The owner goes on migrating, and an instance runs.
	if _, err := pgsource.MigrateUp(b.ctx, urls["owner"], of); err != nil {
		t.Error(err)
	}
	s := open(t, b.ctx, pgsource.Config{DatabaseURL: urls["instance"], Schema: of.Schema, JobsTable: of.JobsTable})
	if m, _ := b.join(s); m.Leave(b.ctx) != nil {
		t.Error("an instance cannot leave")
	}
}

// TestOwnerHasThePublications: publications that a superuser has made belong to the owner's role as the tables do, which then changes the
// feed; without them it says what to do.
func TestOwnerHasThePublications(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	r, urls := b.roles(b.url, pgsource.Names{})
	b.exec(schema.PublicationsUp)
	back := pgsource.FeedSwitch{DatabaseURL: urls["owner"], To: pgsource.FeedNotify}
	if err := back.Run(b.ctx); err == nil || !strings.Contains(err.Error(), "reactor migrate up --roles") || !strings.Contains(err.Error(), "must be owner of publication") {
		t.Errorf("who does not own the publications is told %v", err)
	}
	if err := r.Create(b.ctx); err != nil {
		t.Fatal(err)
	}
	if err := back.Run(b.ctx); err != nil {
		t.Error(err)
	}
	if n := b.count("SELECT count(*) FROM pg_publication"); n != 0 {
		t.Errorf("%d publications are left", n)
	}
	// Somebody else takes over what is theirs, if the role may have it. Their own right goes on with the membership.
	admin, url := b.role("CREATEROLE")
	b.exec("GRANT " + r.List()[0] + " TO " + admin + " WITH ADMIN OPTION; DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO " + admin + "', current_database()); END $$")
	b.exec(schema.PublicationsUp)
	b.exec("ALTER PUBLICATION reactor_jobs_inserted OWNER TO " + admin)
	r.DatabaseURL = url
	if err := r.Create(b.ctx); err != nil {
		t.Errorf("somebody who may not give the publications away: %v", err)
	}
	b.exec("DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO " + r.List()[0] + "', current_database()); END $$")
	if err := r.Create(b.ctx); err != nil {
		t.Error(err)
	}
	if n := b.count("SELECT count(*) FROM pg_publication WHERE pubowner = $1::regrole", r.List()[0]); n != 1 {
		t.Errorf("%d of the two publications belong to the owner's role, and one was theirs", n)
	}
	b.exec("DROP PUBLICATION reactor_jobs_inserted, reactor_jobs_updated")
}

// TestInstanceRole: an instance does all that it does with its role.
func TestInstanceRole(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	_, urls := b.roles(b.url, pgsource.Names{})
	b.start(urls["instance"])
	b.wholePath()
	b.listenOnce()
	b.published(b.claim(b.ordered("k", 1)))
	b.exec("INSERT INTO reactor.schedules (name, every, topic) VALUES ('s', '1 second', 't')")
	if _, err := pgsource.RunSchedule(b.ctx, urls["instance"], "s"); err != nil {
		t.Error(err)
	}
	b.eventually("a schedule has jobs", "SELECT count(*) > 1 FROM jobs WHERE schedule_id IS NOT NULL")
	b.exec("UPDATE jobs SET processed_at = now() - interval '1 hour' WHERE processed")
	if done, err := (pgsource.Retention{DatabaseURL: urls["instance"], Keep: time.Minute}).Purge(b.ctx); err != nil || done.Rows == 0 {
		t.Errorf("purged %+v, %v", done, err)
	}
	second, _ := b.join(open(t, b.ctx, quick(urls["instance"], "second")))
	if err := second.Leave(b.ctx); err != nil {
		t.Error(err)
	}
	b.exec("UPDATE reactor.deployment SET system_identifier = system_identifier - 1; UPDATE reactor.instances SET heartbeat_at = heartbeat_at - interval '1 hour'")
	if _, err := b.member.Beat(b.ctx); err != nil {
		t.Fatal(err)
	}
	was := b.name()
	if err := b.member.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.member = nil
	if b.reopen(pgsource.Config{DatabaseURL: urls["instance"]}); b.name() == was {
		t.Error("a copy keeps its name")
	}
	if _, err := pgsource.MigrateUp(b.ctx, urls["instance"]); err != nil {
		t.Errorf("with nothing to migrate: %v", err)
	}
}

// TestProducerRole: a producer schedules, changes and cancels jobs, by the functions and by SQL, and does nothing else.
func TestProducerRole(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	_, urls := b.roles(b.url, pgsource.Names{})
	conn := connect(t, b.ctx, urls["producer"])
	for _, sql := range []string{
		"INSERT INTO jobs (topic, payload, fire_at, processed, processed_at) SELECT 't', 'p', now(), false, NULL",
		"SELECT reactor.schedule('t', 'p', now() + interval '1 hour', key => 'k')", "SELECT reactor.reschedule('k', now() + interval '2 hours')",
		"SELECT reactor.fire_now('k')", "SELECT reactor.cancel('k')", "SELECT reactor.cancel(1)", "SELECT reactor.retry(1)", "SELECT reactor.cancel_topic('t')",
		`SELECT reactor.insert_jobs('[{"topic": "t"}]')`, "UPDATE jobs SET fire_at = now()", "DELETE FROM jobs", "SELECT * FROM reactor.failed_jobs",
	} {
		if _, err := conn.Exec(b.ctx, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	b.mayNot(conn,
		"TRUNCATE jobs", "CREATE TRIGGER x AFTER INSERT ON jobs EXECUTE FUNCTION reactor.announce_jobs()", "ALTER TABLE jobs ADD COLUMN x int", "CREATE INDEX ON jobs (id)",
		"CREATE TABLE x (id bigint REFERENCES jobs)", "CREATE TABLE reactor.x ()", "CREATE TABLE public.x ()", "CREATE FUNCTION reactor.x() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP TABLE jobs",
		"SELECT reactor.bind_ordering()", "CREATE OR REPLACE FUNCTION reactor.announce_jobs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
		"UPDATE reactor.deployment SET name = 'x'", "UPDATE reactor.lanes SET owner = NULL", "DELETE FROM reactor.in_flight", "INSERT INTO reactor.journal_starts VALUES (1, 1)",
		"DELETE FROM reactor.retries", "DELETE FROM reactor.failed_jobs", "SELECT FROM reactor.instances", "SELECT FROM reactor.shards", "SELECT FROM reactor.schedules", "SELECT FROM reactor.schema_version",
		"INSERT INTO reactor.schedules (name, every, topic) VALUES ('x', '1 s', 't')", "SELECT FROM reactor.lanes FOR UPDATE", "LOCK TABLE reactor.lanes IN EXCLUSIVE MODE", "SELECT reactor.run_schedule('x')",
	)
}

// TestViewerRole: a viewer reads what the commands show, and changes nothing.
func TestViewerRole(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.insert(1, "1 hour")
	_, urls := b.roles(b.url, pgsource.Names{})
	if err := pgsource.WithJobs(b.ctx, urls["viewer"], false, func(a *pgsource.JobsAdmin) error {
		if _, err := a.Show(b.ctx, 1); err != nil {
			return err
		}
		_, _, err := a.List(b.ctx, pgsource.JobFilter{}, pgsource.JobPage{})
		return err
	}); err != nil {
		t.Error(err)
	}
	if _, err := pgsource.ListSchedules(b.ctx, urls["viewer"]); err != nil {
		t.Error(err)
	}
	if _, err := pgsource.MigrateStatus(b.ctx, urls["viewer"]); err != nil {
		t.Error(err)
	}
	conn := connect(t, b.ctx, urls["viewer"])
	b.mayNot(conn, "INSERT INTO jobs (topic, fire_at) VALUES ('t', now())", "UPDATE jobs SET fire_at = now()", "DELETE FROM jobs", "SELECT FROM jobs FOR UPDATE",
		"SELECT reactor.schedule('t')", "SELECT reactor.cancel(1)", "SELECT reactor.cancel_topic('t')", "SELECT reactor.fire_now(1)", "SELECT reactor.insert_jobs('[{\"topic\": \"t\"}]')",
		"TRUNCATE reactor.lanes", "DELETE FROM reactor.instances", "UPDATE reactor.schedules SET paused = true", "CREATE TABLE reactor.x ()", "CREATE TABLE public.x ()", "LOCK TABLE jobs IN SHARE MODE")
}

// mayNot makes sure that statements fail for lack of a right.
func (b *bench) mayNot(conn *pgx.Conn, statements ...string) {
	b.t.Helper()
	for _, sql := range statements {
		_, err := conn.Exec(b.ctx, "BEGIN; "+sql+"; ROLLBACK")
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			b.t.Errorf("%s: %v", sql, err)
		}
		if _, err := conn.Exec(b.ctx, "ROLLBACK"); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestRolesAreRefused: a prefix that is no name, roles of somebody else, a database without a deployment, and a user who
// may not create roles: in one line, and nothing is changed.
func TestRolesAreRefused(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	for _, prefix := range []string{"A", "1", "pg_x", "x y", `x"`, "x'", "{owner}", strings.Repeat("x", 41)} {
		var bad *driver.ConfigError
		if _, err := (pgsource.Roles{RolePrefix: prefix}).SQL(); !errors.As(err, &bad) || bad.Field != "RolePrefix" {
			t.Errorf("%s: %v", prefix, err)
		}
	}
	refused := func(r pgsource.Roles, want string) {
		t.Helper()
		if err := r.Create(b.ctx); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("it says %v", err)
		}
		if n := b.count("SELECT count(*) FROM pg_roles WHERE rolname LIKE $1 || '\\_%' AND rolname <> $1 || '_viewer'", r.RolePrefix); n != 0 {
			t.Errorf("%d roles were created", n)
		}
	}
	user, url := b.role("")
	prefix := user + "x"
	refused(pgsource.Roles{DatabaseURL: url, RolePrefix: prefix}, "--print shows")
	b.exec("CREATE ROLE " + prefix + "_viewer CREATEDB")
	t.Cleanup(func() { b.exec("DROP ROLE " + prefix + "_viewer") })
	refused(pgsource.Roles{DatabaseURL: b.url, RolePrefix: prefix}, "may more than a role of this name should")
	b.exec("DROP TABLE jobs")
	refused(pgsource.Roles{DatabaseURL: b.url, RolePrefix: prefix}, "there is no table of jobs")
}
