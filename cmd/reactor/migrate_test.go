package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
)

// TestMigrateWithoutTriggers: a database without triggers, an instance that reads the WAL, and the
// switch back to the triggers while it runs.
func TestMigrateWithoutTriggers(t *testing.T) {
	t.Parallel()
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
	migrate("applied feeds\napplied punctual\napplied managed\napplied observed\nthe table is published\nthe triggers are dropped", "--without-triggers")

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

// TestMigrateRepair: tables are emptied, and dropped, and made again. The name of the deployment is not made again while
// something goes by it.
func TestMigrateRepair(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database := testkit.NewDatabase(t)
	conn := connect(t, ctx, database)
	repair := func(breaks string, code int, want string) {
		t.Helper()
		exec(t, ctx, conn, breaks)
		if got, output := call(t, nil, "migrate", "up", "--repair", "--database-url", database); got != code || !strings.Contains(output, want) {
			t.Errorf("after %s it ends with %d, not %d:\n%s", breaks, got, code, output)
		}
	}
	repair("DELETE FROM reactor.deployment", 0, "created again")
	repair("DROP TABLE reactor.deployment", 0, "created again")
	others := "reactor.instances, reactor.shards, reactor.lanes, reactor.in_flight, reactor.journal_starts, reactor.retries, reactor.failed_jobs, reactor.schedules"
	repair("TRUNCATE "+others, 0, "created again")
	repair("DROP TABLE jobs, "+others, 0, "created again")
	var whole bool
	if err := conn.QueryRow(ctx, "SELECT (SELECT count(*) FROM reactor.shards) = 64 AND (SELECT count(*) FROM reactor.deployment WHERE jobs_schema = 'public') = 1 AND to_regclass('jobs') IS NOT NULL").Scan(&whole); err != nil || !whole {
		t.Errorf("the schema is not whole: %v", err)
	}
	exec(t, ctx, conn, "INSERT INTO reactor.instances (id, name, backends, dynamic) VALUES (1, 'one', '', true)")
	exec(t, ctx, conn, "DELETE FROM reactor.deployment")
	if code, output := call(t, nil, "migrate", "up", "--database-url", database); code != 1 || !strings.Contains(output, "migrate up --repair") {
		t.Errorf("without --repair it ends with %d:\n%s", code, output)
	}
	repair("SELECT", 1, "stop all instances")
	repair("DROP TABLE reactor.deployment", 1, "stop all instances")
	repair("DELETE FROM reactor.instances", 0, "created again")
}

// TestMigrateStatus: the versions that are applied and those that are not, in a table and in JSON.
func TestMigrateStatus(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database := testkit.NewDatabase(t)
	status := func() (table string, applied, pending int) {
		t.Helper()
		_, table = call(t, nil, "migrate", "status", "--database-url", database)
		code, output := call(t, nil, "migrate", "status", "--json", "--database-url", database)
		var answer struct {
			Versions []struct {
				Version   int
				Name      string
				AppliedAt *time.Time `json:"applied_at"`
			}
		}
		if err := json.Unmarshal([]byte(output), &answer); err != nil || code != 0 {
			t.Fatalf("ended with %d, %v:\n%s", code, err, output)
		}
		for i, v := range answer.Versions {
			if v.Version != i+1 || v.Name == "" || !strings.Contains(table, v.Name) {
				t.Errorf("version %d is %+v", i+1, v)
			}
			if v.AppliedAt == nil {
				pending++
			} else {
				applied++
			}
		}
		return table, applied, pending
	}
	if table, applied, pending := status(); applied < 6 || pending != 0 || strings.Contains(table, "pending") {
		t.Errorf("%d applied, %d pending:\n%s", applied, pending, table)
	}
	exec(t, ctx, connect(t, ctx, database), "DROP TABLE jobs; DROP SCHEMA reactor CASCADE")
	if table, applied, pending := status(); applied != 0 || pending < 6 || strings.Count(table, "pending") != pending {
		t.Errorf("%d applied, %d pending:\n%s", applied, pending, table)
	}
}
