package reactor_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
	schema "github.com/job-publisher/reactor/sql"
)

// cancellable is what a canceller knows of a job.
type cancellable struct {
	ID     int64
	FireAt time.Time
	Key    *string
}

// TestCancelAgainstTheClaim: ten thousand jobs come due while several connections cancel each of them, by
// id or by key, at about the instant of its claim. A job is cancelled and never published, or it is
// published and the answer was that it is too late.
func TestCancelAgainstTheClaim(t *testing.T) {
	for name, prepare := range map[string]func(*world){
		"plain": func(*world) {},
		"partitions": func(w *world) {
			if err := pgsource.ConvertToPartitions(w.ctx, w.databaseURL, 24*time.Hour); err != nil {
				w.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "", "")
			prepare(w)
			w.start(reactor.Config{})
			w.start(reactor.Config{})
			w.sharesOf(2)
			const cancellers = 4
			jobs := 5_000
			if name == "partitions" {
				jobs = 2_000
			}
			w.exec(`INSERT INTO jobs (topic, payload, fire_at, key)
				SELECT $1 || '/t' || n % 10, n::text, clock_timestamp() + interval '1 second' + n * interval '0.8 ms', CASE WHEN n % 2 = 0 THEN 'key ' || n END
				  FROM generate_series(1, $2::bigint) n`, w.prefix, jobs)
			rows, err := w.db.Query(w.ctx, "SELECT id, fire_at, key FROM jobs ORDER BY fire_at")
			if err != nil {
				t.Fatal(err)
			}
			list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[cancellable])
			if err != nil {
				t.Fatal(err)
			}

			answers := make([]map[int64]string, cancellers)
			var wg sync.WaitGroup
			for c := range cancellers {
				answers[c] = map[int64]string{}
				conn := w.connect()
				wg.Go(func() {
					cancel := func(job cancellable) bool {
						sql, by := "SELECT reactor.cancel($1::bigint)", any(job.ID)
						if job.Key != nil {
							sql, by = "SELECT reactor.cancel($1::text)", *job.Key
						}
						var answer string
						if err := conn.QueryRow(w.ctx, sql, by).Scan(&answer); err != nil {
							t.Errorf("cancel job %d: %v", job.ID, err)
							return false
						}
						answers[c][job.ID] = answer
						return true
					}
					var behind []cancellable
					for i := c; i < len(list); i += cancellers {
						// Around the claim, which comes up to 100 ms ahead. This paces the test; what
						// it finds does not depend on it.
						wait := time.Until(list[i].FireAt) - time.Duration(rand.Int64N(int64(500*time.Millisecond))) + 10*time.Millisecond
						if wait < -20*time.Millisecond {
							behind = append(behind, list[i])
							continue
						}
						pace := time.NewTimer(wait)
						select {
						case <-pace.C:
						case <-w.ctx.Done():
							pace.Stop()
							return
						}
						if !cancel(list[i]) {
							return
						}
					}
					for _, job := range behind {
						if !cancel(job) {
							return
						}
					}
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			// What is left in the table is exactly what was not cancelled, and all of it is published.
			expected, err := check.ExpectedFromDB(w.ctx, w.db, "true")
			if err != nil {
				t.Fatal(err)
			}
			w.judgeThese(expected)
			published := map[int64]bool{}
			for _, m := range w.subscriber.Received() {
				published[m.ID] = true
			}
			count := map[string]int{}
			for _, of := range answers {
				for id, answer := range of {
					count[answer]++
					if cancelled := answer == "cancelled"; cancelled == published[id] {
						t.Errorf("job %d: the answer was %q, and published: %t", id, answer, published[id])
					}
				}
			}
			t.Log(count)
			if count["cancelled"]+count["too late, firing now"]+count["already fired"] != jobs {
				t.Errorf("answers %v, want only three kinds, %d in all", count, jobs)
			}
			if count["cancelled"] == 0 || count["too late, firing now"] == 0 || count["already fired"] == 0 {
				t.Errorf("answers %v: the cancellers have not met the claims", count)
			}
		})
	}
}

// TestCancelTopicAgainstTheClaim: what cancel_topic has counted as cancelled, and what is published, are
// all jobs.
func TestCancelTopicAgainstTheClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	in := w.start(reactor.Config{})
	w.sharesOf(1)
	const jobs = 4000
	w.insert(jobs, 0, 2*time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for in.Stats().Claimed < jobs/4 {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			t.Fatalf("%d jobs are claimed", in.Stats().Claimed)
		}
	}
	var cancelled, firing int
	if err := w.db.QueryRow(w.ctx, "SELECT cancelled, firing FROM reactor.cancel_topic($1)", w.prefix).Scan(&cancelled, &firing); err != nil {
		t.Fatal(err)
	}
	report := w.judge()
	if cancelled == 0 || cancelled+report.Published != jobs {
		t.Errorf("%d were cancelled, %d were too late, %d published, of %d", cancelled, firing, report.Published, jobs)
	}
}

// TestVersionSixWhileInstancesRun: version 6 is applied to a database of version 5, again and again, while
// instances publish. Its locks can meet a claim's the wrong way round: PostgreSQL then ends one of the two
// statements, and it is repeated. No job is lost or published twice.
func TestVersionSixWhileInstancesRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.start(reactor.Config{})
	w.start(reactor.Config{})
	w.sharesOf(2)
	w.insert(3000, 0, 3*time.Second)
	for applied := 0; applied < 5; {
		w.exec(schema.FunctionsDown + ";DELETE FROM reactor.schema_version WHERE version_id = 6")
		names, err := pgsource.MigrateUp(w.ctx, w.databaseURL)
		if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Code == pgerrcode.DeadlockDetected {
			continue
		}
		if err != nil || !slices.Equal(names, []string{"managed"}) {
			t.Fatalf("applied %v, %v", names, err)
		}
		applied++
	}
	w.judge()
}

// TestReplaceAgainstTheClaim: jobs are replaced by their key while they come due. Each call has made one
// job of its own: a job that was replaced is published with the new payload, and one that was
// scheduled beside the one that fired is published as well.
func TestReplaceAgainstTheClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.start(reactor.Config{})
	w.sharesOf(1)
	const keys, rounds = 4, 200
	var wg sync.WaitGroup
	scheduled := make([]int, keys)
	for k := range keys {
		conn := w.connect()
		wg.Go(func() {
			for r := range rounds {
				var outcome string
				if err := conn.QueryRow(w.ctx, "SELECT outcome FROM reactor.schedule($1::text, $2::text, clock_timestamp() + interval '2 ms', key => 'key ' || $3::text)",
					w.prefix, string(rune('a'+r%26)), string(rune('0'+k))).Scan(&outcome); err != nil {
					t.Error(err)
					return
				}
				if outcome == "scheduled" {
					scheduled[k]++
				}
			}
		})
	}
	wg.Wait()
	report := w.judge()
	total := 0
	for k := range keys {
		total += scheduled[k]
	}
	if report.Published != total || total < keys*2 {
		t.Errorf("%d jobs were scheduled anew, and %d published", total, report.Published)
	}
}
