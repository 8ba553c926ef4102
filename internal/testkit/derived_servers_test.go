package testkit_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

// The same row can be read through a pooler, from a copy and from a standby of one server.
func TestDerivedServers(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true})
	conn, err := pgx.Connect(ctx, server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE seen AS SELECT 42 AS n"); err != nil {
		t.Fatal(err)
	}
	pooler := testkit.OwnPgBouncer(t, stack.PgBouncerConfig{Target: server, PoolMode: stack.PoolSession})
	for name, url := range map[string]string{
		"pooler": pooler.DatabaseURL("postgres"), "copy": testkit.Copy(t, server).URL(), "standby": testkit.Standby(t, server).URL(),
	} {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var n int
		if err := conn.QueryRow(ctx, "SELECT n FROM seen").Scan(&n); err != nil || n != 42 {
			t.Errorf("%s: %d, %v", name, n, err)
		}
		conn.Close(ctx)
	}
}
