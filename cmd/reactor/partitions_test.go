package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
)

// TestPartitionsCommand: convert, maintain and status, and an instance that publishes from the table,
// drops an old partition, and is not disturbed by it.
func TestPartitionsCommand(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, broker := testkit.NewDatabase(t), broker(t)
	conn := connect(t, ctx, database)
	run := func(want int, args ...string) string {
		t.Helper()
		code, output := call(t, nil, append([]string{"partitions"}, append(args, "--database-url", database)...)...)
		if code != want {
			t.Fatalf("partitions %v ended with %d:\n%s", args, code, output)
		}
		return output
	}
	if said := run(1); !strings.Contains(said, "reactor partitions convert") || strings.Contains(said, "\n\n") {
		t.Errorf("without partitions: %s", said)
	}
	exec(t, ctx, conn, "INSERT INTO jobs (topic, fire_at, processed) VALUES ('old', now() - interval '3 days', true)")
	if said := run(0, "convert"); !strings.Contains(said, "the table has 12 partitions") {
		t.Errorf("convert: %s", said)
	}
	if said := run(0); !strings.Contains(said, "nothing to do") {
		t.Errorf("maintain: %s", said)
	}
	if said := run(0, "maintain", "--ahead", "8"); strings.Count(said, "made the partition") != 1 {
		t.Errorf("maintain: %s", said)
	}
	if said := run(0, "status"); strings.Count(said, "public.jobs_p") != 12 || !strings.Contains(said, "public.jobs_default") || !strings.Contains(said, "24h0m0s") {
		t.Errorf("status: %s", said)
	}
	run(2, "convert", "--interval", "0s")
	var status struct {
		Interval   string
		Partitions []struct {
			Name, From, To string
			Default        bool
			Bytes          int64
			Waiting        *bool `json:"jobs_waiting"`
		}
	}
	if err := json.Unmarshal([]byte(run(0, "status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	last := len(status.Partitions) - 1
	if last != 12 || status.Interval != "24h0m0s" || !status.Partitions[last].Default || status.Partitions[last].From != "" || status.Partitions[last].Name != "public.jobs_default" {
		t.Errorf("status in JSON: %+v", status)
	}
	for i, p := range status.Partitions[:last] {
		if p.Waiting == nil || *p.Waiting || p.Bytes == 0 || p.From == "" || i > 0 && p.From != status.Partitions[i-1].To {
			t.Errorf("a partition in JSON: %+v", p)
		}
	}

	sub := subscribe(t, ctx, broker, "part/#")
	p := start(t, database, broker, "--retain-partitions", "24h")
	exec(t, ctx, conn, `INSERT INTO jobs (topic, fire_at) SELECT 'part/' || n, now() + (n % 5 - 2) * interval '300 milliseconds' FROM generate_series(1, 500) n;
		INSERT INTO jobs (topic, fire_at) SELECT 'part/late' || n, now() - n * interval '1 day' FROM generate_series(1, 10) n`)
	if err := sub.WaitDistinct(ctx, 510); err != nil {
		t.Fatal(err)
	}
	for {
		var there bool
		if err := conn.QueryRow(ctx, "SELECT to_regclass('jobs_p' || to_char(now() AT TIME ZONE 'UTC' - interval '3 days', 'YYYYMMDD')) IS NOT NULL").Scan(&there); err != nil {
			t.Fatal(err)
		}
		if !there {
			break
		}
		// The instance found a late job there, or has not looked yet.
		run(0, "maintain", "--ahead", "8", "--retain", "24h")
	}
	p.Terminate(t)
	if code := p.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
