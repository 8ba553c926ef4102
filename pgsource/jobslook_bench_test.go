package pgsource_test

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

// BenchmarkLook is what it costs to look at a large table: each must take about as long with a hundred times as many rows.
//
//	REACTOR_BENCH_ROWS=10000000 go test -run '^$' -bench Look -benchtime 20x -timeout 60m ./pgsource
//
// Half of the rows have fired, half fire during the next day, and one in a hundred, 100,000 at most, has failed. A sparse topic is
// that of three jobs; a step is what is read until the search is broken off.
func BenchmarkLook(b *testing.B) {
	rows := 100_000
	if n, err := strconv.Atoi(os.Getenv("REACTOR_BENCH_ROWS")); err == nil {
		rows = n
	}
	db := examine(b, testkit.NewDatabase(b))
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	b.Cleanup(cancel)
	db.ctx = ctx
	for from := 0; from < rows; from += 1_000_000 {
		db.exec(`INSERT INTO jobs (topic, payload, fire_at, processed, processed_at, claim)
			SELECT 'bench/' || n % 1000, repeat('x', 100), now() + CASE WHEN n % 2 = 0 THEN n * interval '1 day' / $3 ELSE -(n * interval '1 day' / $3) END, n % 2 = 1,
			       CASE WHEN n % 2 = 1 THEN now() END, CASE WHEN n % 2 = 1 THEN gen_random_uuid() END
			  FROM generate_series($1::bigint + 1, $2::bigint) AS n`, from, min(from+1_000_000, rows), float64(rows))
	}
	db.exec("UPDATE jobs SET topic = 'rare/1' WHERE id IN (2, 3, $1::bigint / 2)", rows)
	db.exec("INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim) SELECT id, 1, 135, 'reason ' || id % 50, claim FROM jobs WHERE processed AND id % 101 = 0 LIMIT 100000")
	db.exec("VACUUM ANALYZE jobs")
	db.exec("VACUUM ANALYZE reactor.failed_jobs")
	j, err := pgsource.OpenJobs(db.url, pgsource.OpenJobsConfig{StatementTimeout: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(j.Close)
	search := func(filter pgsource.JobFilter, after string) func(*pgsource.JobsAdmin) error {
		return func(a *pgsource.JobsAdmin) error {
			page := pgsource.SearchPage{}
			if after != "" {
				cursor, err := pgsource.ParseSearchCursor(after)
				if err != nil {
					return err
				}
				page.After = &cursor
			}
			return errOf(a.Search(ctx, filter, page))
		}
	}
	future := func(step time.Duration, steps int) func(*pgsource.JobsAdmin) error {
		return func(a *pgsource.JobsAdmin) error { return errOf(a.Future(ctx, step, steps)) }
	}
	for _, look := range []struct {
		name string
		do   func(*pgsource.JobsAdmin) error
	}{
		{"Status", func(a *pgsource.JobsAdmin) error { return errOf(a.Status(ctx)) }},
		{"Future/minute", future(time.Second, 60)},
		{"Future/hour", future(time.Minute, 60)},
		{"Future/day", future(time.Hour, 24)},
		{"Search/all", search(pgsource.JobFilter{}, "")},
		{"Search/all,halfway", search(pgsource.JobFilter{}, "id"+strconv.Itoa(rows/2))},
		{"Search/fired", search(pgsource.JobFilter{States: []pgsource.JobState{pgsource.JobFired}}, "")},
		{"Search/waiting", search(pgsource.JobFilter{States: []pgsource.JobState{pgsource.JobWaiting}}, "")},
		{"Search/failed", search(pgsource.JobFilter{States: []pgsource.JobState{pgsource.JobFailed}}, "")},
		{"Search/sparse,step", search(pgsource.JobFilter{TopicPrefix: "rare/"}, "id"+strconv.Itoa(rows/2))},
		{"Search/sparse,waiting,step", search(pgsource.JobFilter{TopicPrefix: "rare/", States: []pgsource.JobState{pgsource.JobWaiting}}, "")},
		{"FailedGroups", func(a *pgsource.JobsAdmin) error {
			_, _, err := a.FailedGroups(ctx, "")
			return err
		}},
	} {
		b.Run(look.name, func(b *testing.B) {
			for b.Loop() {
				if err := j.Look(ctx, look.do); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
