package pgsource

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
)

func TestCheckConnections(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	database := testkit.NewDatabase(t)
	admin := login(t, ctx, database, "")
	var most, reserved int
	if err := admin.QueryRow(ctx, `SELECT current_setting('max_connections')::int,
		current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0)`).Scan(&most, &reserved); err != nil {
		t.Fatal(err)
	}
	if reserved == 0 {
		t.Fatal("the server reserves no connections: the test shows less than it says")
	}
	for _, role := range []string{"connects", "connects_little"} {
		if _, err := admin.Exec(ctx, "DROP ROLE IF EXISTS "+role+"; CREATE ROLE "+role+" LOGIN"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = admin.Exec(context.Background(), "DROP ROLE "+role) }) // the server goes with the package's tests
	}
	if _, err := admin.Exec(ctx, "ALTER ROLE connects_little CONNECTION LIMIT 5"); err != nil {
		t.Fatal(err)
	}
	usual, little := login(t, ctx, database, "connects"), login(t, ctx, database, "connects_little")

	check := func(db *pgx.Conn, want int, problem string) {
		t.Helper()
		err := checkConnections(ctx, db, want)
		if problem == "" && err != nil || problem != "" && (err == nil || !strings.Contains(err.Error(), problem)) {
			t.Errorf("%d connections: %v, want %q", want, err, problem)
		}
	}
	check(admin, most, "")
	check(admin, most+1, "raise max_connections")
	check(usual, most-reserved, "")
	check(usual, most-reserved+1, "raise max_connections")
	check(little, 5, "")
	check(little, 6, `run ALTER ROLE "connects_little" CONNECTION LIMIT 6`)
	if _, err := admin.Exec(ctx, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 4', current_database()); END $$"); err != nil {
		t.Fatal(err)
	}
	check(admin, most, "")
	check(usual, 4, "")
	check(usual, 5, "ALTER DATABASE")
	check(little, 5, "ALTER DATABASE")
	if err := checkConnections(ctx, usual, 5); err == nil || !strings.Contains(err.Error(), "lower pgsource.Config.MaxConns") || strings.Contains(err.Error(), "\n") {
		t.Errorf("the error is %v, want one line that names the flag", err)
	}
}

// login connects as a role, or as the database's owner.
func login(t *testing.T, ctx context.Context, database, role string) *pgx.Conn {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	if role != "" {
		q := u.Query()
		q.Set("user", role)
		u.RawQuery = q.Encode()
	}
	conn, err := pgx.Connect(ctx, u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}
