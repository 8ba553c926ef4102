package main

import (
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
)

// TestMigrateWithoutTriggers: a database without triggers, an instance that reads the WAL, and the
// switch back to the triggers while it runs.
func TestMigrateWithoutTriggers(t *testing.T) {
	ctx := testContext(t)
	database, broker := testkit.NewDatabase(t), broker(t)
	conn := connect(t, ctx, database)
	exec(t, ctx, conn, "DROP TABLE jobs; DROP SCHEMA reactor CASCADE")
	migrate := func(want string, args ...string) {
		t.Helper()
		if code, output := call(t, nil, append([]string{"migrate"}, append(args, "--database-url", database)...)...); code != 0 || !strings.Contains(output, want) {
			t.Fatalf("migrate %v ended with %d:\n%s", args, code, output)
		}
	}
	migrate("applied feeds\napplied punctual\napplied managed\nthe table is published\nthe triggers are dropped", "--without-triggers")

	sub := subscribe(t, ctx, broker, "feed/#")
	p := start(t, database, broker, "--http-addr", "127.0.0.1:0")
	address := "http://" + httpAddress(t, ctx, p)
	heard := func(feed string) {
		t.Helper()
		for {
			_, metrics := get(t, ctx, address+"/metrics")
			if strings.Contains(metrics, `reactor_feed{kind="`+feed+`"} 1`) {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("the instance does not learn of new jobs by %s:\n%s", feed, metrics)
			}
		}
	}
	heard("wal")
	exec(t, ctx, conn, "INSERT INTO jobs (topic, fire_at) VALUES ('feed/wal', now())")
	if err := sub.WaitDistinct(ctx, 1); err != nil {
		t.Fatal(err)
	}
	migrate("the publications are dropped", "feed", "notify")
	heard("notify")
	exec(t, ctx, conn, "INSERT INTO jobs (topic, fire_at) VALUES ('feed/notify', now())")
	if err := sub.WaitDistinct(ctx, 2); err != nil {
		t.Fatal(err)
	}
	migrate("the triggers are dropped", "feed", "wal")
	heard("wal")
	p.Terminate(t)
	if code := p.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
