package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

// TestStartAtAFullServer: a start that finds no free connection says so in one line, with the remedy
// in terms of flags, whoever has taken them: the server's last ones are reserved for superusers. So
// does a start that finds one, and no second.
func TestStartAtAFullServer(t *testing.T) {
	ctx := testContext(t)
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true, Settings: map[string]string{"max_connections": "15"}})
	if _, err := pgsource.MigrateUp(ctx, server.URL()); err != nil {
		t.Fatal(err)
	}
	exec(t, ctx, connect(t, ctx, server.URL()), `CREATE ROLE usual LOGIN; GRANT SELECT, UPDATE ON jobs TO usual;
		GRANT USAGE ON SCHEMA reactor TO usual; GRANT ALL ON ALL TABLES IN SCHEMA reactor TO usual`)
	usual := server.URL() + "&user=usual"
	var held []*pgx.Conn
	for {
		conn, err := pgx.Connect(ctx, usual)
		if err != nil {
			break
		}
		t.Cleanup(func() { conn.Close(ctx) })
		held = append(held, conn)
	}
	start := func(t *testing.T) {
		t.Helper()
		code, output := call(t, nil, "run", "--database-url", usual, "--mqtt-url", broker(t), "--database-connections", "6")
		said := lines(output)
		last := said[len(said)-1]
		if code != 1 || !strings.Contains(last, "raise max_connections") || !strings.Contains(last, "--database-connections") || strings.Contains(last, "pgsource") {
			t.Errorf("exit code %d, and it says\n%s", code, output)
		}
		if n := strings.Count(output, "max_connections"); n != 1 {
			t.Errorf("the remedy is in %d lines of\n%s", n, output)
		}
	}
	for free := range 2 {
		t.Run(fmt.Sprintf("%d free", free), start)
		held[0].Close(ctx)
		held = held[1:]
	}
}
