package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestStatusCommand: two instances, one with a fixed share, publish; the status tells it, to people and to scripts, and a
// role that may only read gets it.
func TestStatusCommand(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, mqtt := testkit.NewDatabase(t), broker(t)
	db, judge := connect(t, ctx, database), subscribe(t, ctx, mqtt, "job/#")
	viewer := fmt.Sprintf("viewer_%d", time.Now().UnixNano())
	exec(t, ctx, db, "CREATE ROLE "+viewer+" LOGIN; GRANT USAGE ON SCHEMA reactor TO "+viewer+"; GRANT SELECT ON ALL TABLES IN SCHEMA reactor TO "+viewer+"; GRANT SELECT ON jobs TO "+viewer)
	t.Cleanup(func() {
		exec(t, context.Background(), db, "DROP OWNED BY "+viewer+"; DROP ROLE "+viewer)
	})
	asViewer := strings.Replace(database, "?", "?user="+viewer+"&", 1)
	run := func(args ...string) string {
		t.Helper()
		code, output := call(t, nil, append([]string{"status", "--database-url", asViewer}, args...)...)
		if code != 0 {
			t.Fatalf("status %v ended with %d:\n%s", args, code, output)
		}
		return output
	}
	if output := run(); !strings.Contains(output, "no instance is running") || !strings.Contains(output, "no instance has any of the 64 shards: all jobs wait for one") {
		t.Error(output)
	}

	one := start(t, database, mqtt, "--name", "one\u009b31m")
	two := start(t, database, mqtt, "--name", "two", "--consumer-count", "1")
	exec(t, ctx, db, "INSERT INTO jobs (topic, fire_at) SELECT 'job/' || n, now() + n * interval '1 millisecond' FROM generate_series(1, 500) n")
	exec(t, ctx, db, `INSERT INTO jobs (topic, fire_at) VALUES ('far', now() + interval '1 hour')`)
	if err := judge.WaitDistinct(ctx, 500); err != nil {
		t.Fatal(err)
	}
	var s struct {
		Backlog   struct{ Due, Firing int64 }
		Next      []struct{ Topic string }
		Problems  []string
		Instances []struct {
			Name, Version, State string
			Shards, Protocol     int
			Fixed                bool `json:"fixed_share"`
			Says                 *struct {
				Published int64
				Lanes     int64 `json:"lanes_up"`
				Lateness  *struct {
					Jobs int64
					P50  float64 `json:"p50_ms"`
					P99  float64 `json:"p99_ms"`
				}
			}
		}
	}
	for settled := false; !settled; { // what an instance says of itself is up to a second old
		s.Instances, s.Problems = nil, nil
		if err := json.Unmarshal([]byte(run("--json")), &s); err != nil {
			t.Fatal(err)
		}
		published, lateness, ready := int64(0), int64(0), 0
		for _, i := range s.Instances {
			if i.Says != nil {
				published += i.Says.Published
				if i.Says.Lateness != nil {
					lateness += i.Says.Lateness.Jobs
				}
			}
			if i.State == "ready" {
				ready++
			}
		}
		settled = published == 500 && lateness == 500 && ready == 2 && s.Backlog.Firing == 0
		if ctx.Err() != nil {
			t.Fatalf("%+v\n%s\n%s", s, one.Output(), two.Output())
		}
	}
	if len(s.Problems) != 0 || len(s.Next) != 1 || s.Backlog.Due != 0 {
		t.Errorf("%+v", s)
	}
	for _, i := range s.Instances {
		fixed := i.Name == "two"
		if i.Version == "" || i.Protocol != driver.Protocol || i.Fixed != fixed || i.Says.Lanes == 0 || !fixed && i.Shards != 64 {
			t.Errorf("%+v", i)
		}
	}
	output := run()
	for _, want := range []string{`one\u009b31m`, "two", "ready", "3/3", "LATE P50", " ms", " far", "due now          0 jobs", "schema version"} {
		if !strings.Contains(output, want) {
			t.Errorf("the table lacks %q:\n%s", want, output)
		}
	}

	// One that is killed is silent, and then gone.
	one.Kill(t)
	watch := testkit.Run(t, testkit.ProcessConfig{Path: testkit.Reactor(t), Args: []string{"status", "--database-url", asViewer, "--watch", "1s", "--json"}})
	if _, err := watch.WaitLine(ctx, `"instances":[{"name":"two"`); err != nil {
		t.Fatal(err)
	}
	watch.Terminate(t)
	if code := watch.Wait(t, 20*time.Second); code != 0 {
		t.Errorf("watching ended with %d:\n%s", code, watch.Output())
	}
	if code, output := call(t, nil, "status", "--database-url", asViewer, "--watch", "1ms"); code != 2 || !strings.Contains(output, "--watch is 1ms, must be 1s at least") {
		t.Errorf("ended with %d: %s", code, output)
	}
}

// TestStatusSaysWhatIsWrong: in words, with the name of the instance.
func TestStatusSaysWhatIsWrong(t *testing.T) {
	s := pgsource.Status{
		At: driver.DBTimeOf(time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)), Deployment: "d", SchemaVersion: 7, Unowned: 3,
		Backlog: pgsource.Backlog{Due: pgsource.MostCounted + 1, Oldest: 90 * time.Second, Soon: 1, Firing: 1234, Retrying: 2, Blocked: 1, Failed: 4},
		Lanes:   []pgsource.LaneStatus{{Lane: 1, InFlight: 5}, {Lane: 2, Instance: "b", InFlight: 6}},
		Instances: []pgsource.InstanceStatus{
			{Name: "a", Dynamic: true, Silent: true, Beat: 5 * time.Second},
			{Name: "b", Dynamic: true, Snapshot: &driver.Snapshot{Problems: []string{"set reactor.Config.Lanes"}}},
			{Name: "c", Dynamic: true, Snapshot: &driver.Snapshot{Ready: true, Problems: []string{"x"}}},
			{Name: "d", Dynamic: true, Feed: "notify"},
		},
	}
	var b strings.Builder
	if err := writeStatus(&b, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"more than 10,000 jobs, the oldest for 1m30s", "being published    1,234 jobs", "to be tried again  2 jobs", "blocked            1 job (", "not published      4 jobs (",
		"new jobs by        notify\n", "silent", "not ready", "degraded", "running", "a: has sent no heartbeat for 5s", "b: set --lanes", "nobody has 3 of the 64 shards", "5 jobs were left by instances that are gone",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the status lacks %q:\n%s", want, b.String())
		}
	}
	for d, want := range map[time.Duration]string{-1: "0s", 1234 * time.Millisecond: "1.2s", 75 * time.Second: "1m15s", 3*time.Hour + 61*time.Second: "3h1m", 25 * time.Hour: "1d1h", 9 * 24 * time.Hour: "9d0h"} {
		if got := words.Duration(d); got != want {
			t.Errorf("%d is %s, want %s", d, got, want)
		}
	}
}
