package reactor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor"
)

// TestPublishesWhatIsDueNowBesideABacklog: another application's jobs, inserted before and meanwhile, are published
// when they are due, not when the backlog is, of which memory takes a seventh; also over a single lane.
func TestPublishesWhatIsDueNowBesideABacklog(t *testing.T) {
	for _, lanes := range []int{3, 1} {
		t.Run(fmt.Sprint(lanes, " lanes"), func(t *testing.T) {
			const backlog = 30_000
			w := newWorld(t, "", "")
			w.insert(backlog, -time.Hour, -time.Minute)
			w.exec(`INSERT INTO jobs (topic, payload, fire_at)
				SELECT $1 || '/now', 'before', clock_timestamp() + interval '1 second' + n * interval '20 milliseconds' FROM generate_series(1, 50) n`, w.prefix)
			w.plainProcess(nil, "--lanes", fmt.Sprint(lanes), "--max-pending", "4096", "--jobs-per-read", "1024")
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for w.subscriber.Progress().Distinct < backlog*3/4 {
				w.exec("INSERT INTO jobs (topic, payload, fire_at) VALUES ($1 || '/now', 'meanwhile', clock_timestamp())", w.prefix)
				select {
				case <-tick.C:
				case <-w.ctx.Done():
					t.Fatalf("%d of the backlog are published", w.subscriber.Progress().Distinct)
				}
			}
			w.judge()
			// When they were claimed, not when they arrived: with the race detector the subscriber is slower
			// than the broker, and everything waits for it. And since the first claim: on a busy machine the
			// process needs seconds to start.
			const lateness = "extract(epoch FROM percentile_cont($1::float8) WITHIN GROUP (ORDER BY processed_at - greatest(fire_at, (SELECT min(processed_at) FROM jobs))) FILTER (WHERE topic LIKE '%/now'))"
			seconds := func(sql string, args ...any) time.Duration {
				t.Helper()
				var s float64
				if err := w.db.QueryRow(w.ctx, "SELECT ("+sql+")::float8 FROM jobs", args...).Scan(&s); err != nil {
					t.Fatal(err)
				}
				return time.Duration(s * float64(time.Second))
			}
			took := seconds("extract(epoch FROM max(processed_at) FILTER (WHERE topic NOT LIKE '%/now') - min(processed_at))")
			p90 := seconds(lateness, 0.9)
			t.Logf("the backlog took %v; the jobs beside it: p50 %v, p90 %v, at most %v late", took, seconds(lateness, 0.5), p90, seconds(lateness, 1.0))
			if p90 > took/4 {
				t.Errorf("jobs that are due now are up to %v late beside a backlog that takes %v", p90, took)
			}
		})
	}
}

// TestSmallBesideLargePayloads: two payloads of 60 MB are due, and a thousand small jobs in the second
// in which they are published. Those do not wait for them.
func TestSmallBesideLargePayloads(t *testing.T) {
	w := newWorld(t, "", "")
	w.start(reactor.Config{Lanes: 2})
	w.sharesOf(1)
	w.insert(10, 0, 0)
	if err := w.subscriber.WaitDistinct(w.ctx, 10); err != nil {
		t.Fatal(err)
	}
	w.exec(`INSERT INTO jobs (topic, payload, fire_at) SELECT $1 || '/large', repeat(md5(n::text), 2000000), now() FROM generate_series(1, 2) n`, w.prefix)
	begun := time.Now()
	w.insert(1000, 0, time.Second)
	report := w.judge()
	var last time.Time
	for _, m := range w.subscriber.Received() {
		if strings.HasSuffix(m.Topic, "/large") && m.At.After(last) {
			last = m.At
		}
	}
	took, p50 := last.Sub(begun), report.LatenessAt(50)
	t.Logf("the large ones took %v; the others are %v late at p50, %v at p90", took, p50, report.LatenessAt(90))
	if p50 > took/4 {
		t.Errorf("half of the small jobs are %v late or more, beside payloads that take %v", p50, took)
	}
}
