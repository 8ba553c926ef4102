package main

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
)

// TestExtremeJobs: jobs with the first and last timestamps of PostgreSQL are published, or fail,
// like all others, and they make no counter decrease.
func TestExtremeJobs(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, mqtt := testkit.NewDatabase(t), broker(t)
	db, judge := connect(t, ctx, database), subscribe(t, ctx, mqtt, "x/#")
	exec(t, ctx, db, `SET TimeZone = 'UTC'`)
	exec(t, ctx, db, `INSERT INTO jobs (topic, fire_at, expires_at) VALUES
		('x/published/no-expiry',     now(),                 NULL),
		('x/published/last-expiry',   now(),                 '294276-12-31 23:59:59.999999'),
		('x/published/2320',          now(),                 '2320-01-01'),
		('x/published/4713-bc',       '4713-01-01 BC',       NULL),
		('x/published/first',         '4714-11-24 BC',       '294276-12-31'),
		('x/published/1970',          '1970-01-01',          NULL),
		('x/published/1700',          '1700-01-01',          NULL),
		('x/expired/epoch',           now(),                 '1970-01-01 00:00:00+00'),
		('x/expired/before-epoch',    now(),                 '1969-12-31 23:59:59.999999+00'),
		('x/expired/first',           now(),                 '4714-11-24 BC'),
		('x/expired/from-the-start',  '4713-01-01 BC',       '4713-01-02 BC'),
		('x/waiting/last',            '294276-12-31 23:59:59.999999', NULL),
		('x/waiting/2320',            '2320-01-01',          '294276-12-31')`)
	p := start(t, database, mqtt, "--http-addr", "127.0.0.1:0")
	address := httpAddress(t, ctx, p)
	if err := judge.WaitDistinct(ctx, 7); err != nil {
		t.Error(err)
	}
	for failed := 0; failed < 4; {
		if err := db.QueryRow(ctx, "SELECT count(*) FROM reactor.failed_jobs").Scan(&failed); err != nil {
			t.Fatal(err)
		}
	}
	_, metrics := get(t, ctx, "http://"+address+"/metrics")
	p.Terminate(t)
	if code := p.Wait(t, 20*time.Second); code != 0 {
		t.Errorf("a clean stop exits with %d:\n%s", code, p.Output())
	}

	outcome := map[string][]string{}
	rows, err := db.Query(ctx, `SELECT topic, CASE WHEN f.reason LIKE 'expired%' THEN 'expired' WHEN f.reason IS NOT NULL THEN f.reason WHEN processed THEN 'published' ELSE 'waiting' END
		FROM jobs LEFT JOIN reactor.failed_jobs f ON job_id = id ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	var topic, became string
	if _, err := pgx.ForEachRow(rows, []any{&topic, &became}, func() error {
		outcome[became] = append(outcome[became], topic)
		if !strings.HasPrefix(topic, "x/"+became+"/") {
			t.Errorf("%s became %s", topic, became)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	received := map[string]int{}
	for _, m := range judge.Received() {
		received[m.Topic]++
	}
	if got := slices.Sorted(maps.Keys(received)); !slices.Equal(got, slices.Sorted(slices.Values(outcome["published"]))) || len(judge.Received()) != 7 {
		t.Errorf("received %v, marked as published %v", received, outcome["published"])
	}
	// There are 11 jobs, and a sum counts at most a minute of lateness for each.
	sum := regexp.MustCompile(`(?m)^reactor_lateness_seconds_sum (\S+)$`).FindStringSubmatch(metrics)
	if sum == nil {
		t.Fatalf("no lateness in\n%s", metrics)
	}
	if seconds, err := strconv.ParseFloat(sum[1], 64); err != nil || seconds < 4*60 || seconds > 11*60 {
		t.Errorf("the lateness of all jobs sums up to %s s, %v", sum[1], err)
	}
}
