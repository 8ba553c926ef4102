package stack

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// A copy has the same identity as the original. Later writes to one are not in the other.
func TestCopyPostgres(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p, err := StartPostgres(ctx, PostgresConfig{}) // with passwords
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	execSQL(ctx, t, p.URL(), "CREATE DATABASE app")
	execSQL(ctx, t, p.DatabaseURL("app"), "CREATE TABLE seen AS SELECT generate_series(1, 100000) AS n")
	c, err := CopyPostgres(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const identity = "SELECT system_identifier::text || ' ' || (SELECT oid::text FROM pg_database WHERE datname = 'app') FROM pg_control_system()"
	if a, b := show(t, simple(t, p.URL()), identity), show(t, simple(t, c.URL()), identity); a != b {
		t.Errorf("identity %s of the original, %s of the copy", a, b)
	}
	if p.Port() == c.Port() || p.Dir() == c.Dir() {
		t.Errorf("original and copy share port %d or folder %s", c.Port(), c.Dir())
	}
	execSQL(ctx, t, p.DatabaseURL("app"), "INSERT INTO seen VALUES (0)")
	execSQL(ctx, t, c.DatabaseURL("app"), "DELETE FROM seen WHERE n <= 10")
	for server, want := range map[*Postgres]int{p: 100_001, c: 99_990} {
		if got := count(ctx, t, server.DatabaseURL("app"), "SELECT count(*) FROM seen"); got != want {
			t.Errorf("%d rows, want %d", got, want)
		}
	}
	pids := []int{c.Pid()}
	if err := errors.Join(c.Restart(ctx), c.Close()); err != nil {
		t.Fatal(err)
	}
	mustLeaveNothing(t, pids, c.Port(), c.Dir())
	if got := count(ctx, t, p.DatabaseURL("app"), "SELECT count(*) FROM seen"); got != 100_001 {
		t.Errorf("%d rows in the original after the copy was closed, want 100,001", got)
	}
}

// A promoted standby has the streamed commits, but not the primary's last ones.
func TestStandbyLosesTheLastCommits(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p, err := StartPostgres(ctx, PostgresConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	execSQL(ctx, t, p.URL(), "CREATE TABLE seen (n int)")
	s, err := StartStandby(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	execSQL(ctx, t, p.URL(), "INSERT INTO seen SELECT generate_series(1, 1000)")
	if err := s.CatchUp(ctx, p); err != nil {
		t.Fatal(err)
	}
	if got := count(ctx, t, s.URL(), "SELECT count(*) FROM seen"); got != 1000 {
		t.Errorf("%d rows were streamed, want 1000", got)
	}
	if err := s.StopStreaming(ctx); err != nil {
		t.Fatal(err)
	}
	execSQL(ctx, t, p.URL(), "INSERT INTO seen SELECT generate_series(1, 10)") // these are lost
	if err := errors.Join(p.Kill(), s.Promote(ctx)); err != nil {
		t.Fatal(err)
	}
	execSQL(ctx, t, s.URL(), "INSERT INTO seen VALUES (1)")
	if got := count(ctx, t, s.URL(), "SELECT count(*) FROM seen"); got != 1001 {
		t.Errorf("%d rows after the failover, want 1001", got)
	}
	// The new primary can have a standby too.
	s2, err := StartStandby(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Close()
	if err := s2.CatchUp(ctx, s); err != nil {
		t.Fatal(err)
	}
	if got := count(ctx, t, s2.URL(), "SELECT count(*) FROM seen"); got != 1001 {
		t.Errorf("%d rows in the second standby, want 1001", got)
	}
}

func TestPostgresReadOnly(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p, err := StartPostgres(ctx, PostgresConfig{Trust: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	execSQL(ctx, t, p.URL(), "CREATE DATABASE app")
	url := p.DatabaseURL("app")
	execSQL(ctx, t, url, "CREATE TABLE seen (n int)")
	open := simple(t, url)
	code := func(err error) string {
		if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
			return pgErr.Code
		}
		return ""
	}
	write := func(session string, want string) {
		t.Helper()
		conn := open
		if session == "new" {
			conn = simple(t, url)
		}
		if _, err := conn.Exec(ctx, "INSERT INTO seen VALUES (1)"); code(err) != want {
			t.Errorf("a write by the %s session: %v, want %q", session, err, want)
		}
	}
	const readOnly = "25006"
	write("open", "")
	if err := p.SetReadOnly(ctx, true); err != nil {
		t.Fatal(err)
	}
	write("new", readOnly)
	write("open", readOnly)
	execSQL(ctx, t, url+"&options=-c%20default_transaction_read_only%3Doff", "INSERT INTO seen VALUES (1)")
	if err := p.SetReadOnly(ctx, false); err != nil {
		t.Fatal(err)
	}
	write("new", "")
	write("open", "")
	// One database becomes read-only for new sessions only. They keep the setting.
	if err := p.SetDatabaseReadOnly(ctx, "app", true); err != nil {
		t.Fatal(err)
	}
	write("open", "")
	stale := simple(t, url)
	if err := p.SetDatabaseReadOnly(ctx, "app", false); err != nil {
		t.Fatal(err)
	}
	write("new", "")
	open = stale
	write("open", readOnly)
}
