package stack

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// simple returns a connection that needs no named statements.
func simple(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	ctx := testContext(t)
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(ctx) })
	return conn
}

func show(t *testing.T, conn *pgx.Conn, sql string) (value string) {
	t.Helper()
	if err := conn.QueryRow(testContext(t), sql).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// In transaction mode clients share server connections: a session setting of one client is
// still there for the next one. In session mode it is reset.
func TestPgBouncerPoolModes(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p, err := StartPostgres(ctx, PostgresConfig{}) // with passwords
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	execSQL(ctx, t, p.URL(), "CREATE ROLE app LOGIN PASSWORD 'p@ss'")
	execSQL(ctx, t, p.URL(), "CREATE DATABASE app OWNER app")
	for mode, want := range map[string]string{PoolTransaction: "7s", PoolSession: "0"} {
		b, err := StartPgBouncer(ctx, PgBouncerConfig{Target: p, PoolMode: mode, PoolSize: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		url := strings.NewReplacer("postgres:"+p.password, "app:p%40ss").Replace(b.DatabaseURL("app"))
		one := simple(t, url)
		if _, err := one.Exec(ctx, "SET statement_timeout = '7s'"); err != nil {
			t.Fatal(err)
		}
		if got := show(t, one, "SELECT current_user || ' in ' || current_database()"); got != "app in app" {
			t.Errorf("%s: connected as %s", mode, got)
		}
		backend := show(t, one, "SELECT pg_backend_pid()::text")
		if mode == PoolSession {
			one.Close(ctx) // the pool has one connection only
		}
		two := simple(t, url)
		if got := show(t, two, "SELECT pg_backend_pid()::text"); got != backend {
			t.Errorf("%s: server process %s, want the same as before, %s", mode, got, backend)
		}
		if got := show(t, two, "SHOW statement_timeout"); got != want {
			t.Errorf("%s: another client's statement_timeout is %s, want %s", mode, got, want)
		}
		console := simple(t, b.DatabaseURL("pgbouncer"))
		if got := show(t, console, "SHOW VERSION"); !strings.Contains(got, "PgBouncer") {
			t.Errorf("the console answers %q, want the version of PgBouncer", got)
		}
	}
}

func TestPgBouncerStopsAndStarts(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p, err := StartPostgres(ctx, PostgresConfig{Trust: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	execSQL(ctx, t, p.URL(), "CREATE ROLE app LOGIN") // without a password
	b, err := StartPgBouncer(ctx, PgBouncerConfig{Target: p})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	port, pids := b.Port(), []int{b.Pid()}
	for name, end := range map[string]func() error{"Stop": b.Stop, "Kill": b.Kill} {
		if err := end(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := b.Start(ctx); err != nil {
			t.Fatalf("Start after %s: %v", name, err)
		}
		pids = append(pids, b.Pid())
		if b.Port() != port {
			t.Errorf("Start after %s: port %d → %d", name, port, b.Port())
		}
	}
	conn := simple(t, strings.Replace(b.DatabaseURL("postgres"), "postgres@", "app@", 1))
	if got := show(t, conn, "SELECT current_user"); got != "app" {
		t.Errorf("connected as %s", got)
	}
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	mustLeaveNothing(t, pids, port, b.Dir())
}

func TestPgBouncerErrorsNameTheCause(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := &Postgres{} // not started
	for name, c := range map[string]struct {
		cfg  PgBouncerConfig
		want string
	}{
		"no target":       {PgBouncerConfig{}, "Target"},
		"no such mode":    {PgBouncerConfig{Target: p, PoolMode: "other"}, "other"},
		"no such program": {PgBouncerConfig{Target: p, Binary: "/nonexistent/pgbouncer"}, "/nonexistent/pgbouncer"},
	} {
		b, err := StartPgBouncer(ctx, c.cfg)
		if err == nil {
			b.Close()
			t.Fatalf("%s: it started", name)
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error does not contain %q:\n%v", name, c.want, err)
		}
	}
}
