package reactor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// TestFailoversLoseCommits: again and again a standby takes over that lacks the last commits of
// its primary: claims, settlements, epochs and heartbeats are undone. Nobody can know what was
// undone, so jobs may be published twice. But all jobs in the table are published in the end,
// and both instances go on.
func TestFailoversLoseCommits(t *testing.T) {
	t.Parallel()
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true})
	w := newWorldOn(t, server)
	proxy := testkit.NewProxy(t, server.URL())
	direct := w.databaseURL
	w.databaseURL = proxy.Through(direct)
	_, book := w.startLogged(reactor.Config{})
	second := w.start(reactor.Config{})
	w.sharesOf(2)
	for range 2 {
		standby := testkit.Standby(t, server)
		w.insert(2000, 0, 2*time.Second)
		if err := standby.CatchUp(w.ctx, server); err != nil {
			t.Fatal(err)
		}
		start := w.subscriber.Progress().Distinct
		if err := w.subscriber.WaitDistinct(w.ctx, start+200); err != nil {
			t.Fatal(err)
		}
		if err := standby.StopStreaming(w.ctx); err != nil {
			t.Fatal(err)
		}
		// The new primary will not have the commits from here on.
		if err := w.subscriber.WaitDistinct(w.ctx, start+600); err != nil {
			t.Fatal(err)
		}
		proxy.Refuse()
		proxy.Reset()
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := standby.Promote(w.ctx); err != nil {
			t.Fatal(err)
		}
		proxy.Retarget(fmt.Sprint("127.0.0.1:", standby.Port()))
		if err := proxy.Accept(); err != nil {
			t.Fatal(err)
		}
		server = standby
		w.db = w.connect()
		w.published()
	}
	// Both still claim.
	w.sharesOf(2)
	w.everyLaneWorks()
	before := second.Stats().Claimed
	w.insert(1000, 0, 0)
	w.published()
	if second.Stats().Claimed == before {
		t.Error("the second instance does not claim any more")
	}
	if n := second.Stats().Feed.Failovers; n != 2 {
		t.Errorf("%d of 2 failovers were counted", n)
	}
	t.Logf("%d lines of warnings, %d of lanes that ended", len(book.lines("")), len(book.lines("a lane has ended")))
}

// TestPromotion: the old primary is cut off while thousands of jobs fire, with statements under way,
// and goes on without clients; its synchronous standby is promoted. No commit is lost, so nothing is
// lost and nothing is published twice.
func TestPromotion(t *testing.T) {
	t.Parallel()
	primary := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true})
	w := newWorldOn(t, primary)
	standby := testkit.Standby(t, primary)
	w.exec("ALTER SYSTEM SET synchronous_standby_names = '*'")
	w.exec("SELECT pg_reload_conf()")
	w.eventually("commits wait for the standby", "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')")
	old := testkit.NewProxy(t, primary.URL())
	hosts := strings.Replace(standby.URL(), "127.0.0.1:", old.Addr()+",127.0.0.1:", 1)
	both := func(s *pgsource.Config, _ *mqttsink.Config) { s.DatabaseURL = hosts }
	first := w.start(reactor.Config{}, both)
	w.start(reactor.Config{}, both)
	w.sharesOf(2)
	w.insert(4000, 0, 3*time.Second)
	if err := w.subscriber.WaitDistinct(w.ctx, 1000); err != nil {
		t.Fatal(err)
	}
	old.Stall()
	old.BlackHole()
	if err := standby.Promote(w.ctx); err != nil {
		t.Fatal(err)
	}
	promoted, had := time.Now(), w.subscriber.Progress().Distinct
	if err := w.subscriber.WaitDistinct(w.ctx, had+1); err != nil {
		t.Fatal(err)
	}
	t.Logf("the first message arrives %v after the promotion", time.Since(promoted).Round(time.Millisecond))
	w.databaseURL = standby.URL()
	w.db = w.connect()
	w.judge()
	if n := first.Stats().Feed.Failovers; n != 1 {
		t.Errorf("%d failovers were counted", n)
	}
	w.sharesOf(2)
}

// published waits until all jobs in the table are published, and judges; repetitions are
// allowed.
func (w *world) published() {
	w.t.Helper()
	w.eventually("all are processed, and none is on its way",
		"SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed) AND NOT EXISTS (SELECT FROM reactor.in_flight)")
	report := w.delivered()
	if report.Lost.Count > 0 {
		w.t.Error(report.Err())
	}
	if report.Duplicated.Count > 0 {
		w.t.Logf("%d of %d repeated", report.Duplicated.Count, report.Expected)
	}
}

// everyLaneWorks waits until each lane's owner is a live instance.
func (w *world) everyLaneWorks() {
	w.t.Helper()
	w.eventually("all lanes have living owners", `
		SELECT bool_and(owner IS NULL OR owner IN (SELECT id FROM reactor.instances WHERE heartbeat_at > clock_timestamp() - interval '3 seconds'))
		   AND count(owner) >= 4 FROM reactor.lanes`)
}

// TestCrashesLoseCommits does the same with a server that crashes and loses its last commits,
// as somebody has switched synchronous_commit off. Our sessions override that setting: what an
// instance has committed is there after the crash, and no job is published twice.
func TestCrashesLoseCommits(t *testing.T) {
	t.Parallel()
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true, Settings: map[string]string{"synchronous_commit": "off", "wal_writer_delay": "10s"}})
	w := newWorldOn(t, server)
	w.start(reactor.Config{})
	w.start(reactor.Config{})
	w.sharesOf(2)
	for round := range 2 {
		insertDurably(t, w, 2000, 2*time.Second)
		if err := w.subscriber.WaitDistinct(w.ctx, round*2000+500); err != nil {
			t.Fatal(err)
		}
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := server.Start(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.db = w.connect()
		w.judge()
	}
	w.sharesOf(2)
	w.everyLaneWorks()
}

// insertDurably inserts jobs as an application that needs durable commits.
func insertDurably(t *testing.T, w *world, n int, within time.Duration) {
	t.Helper()
	err := pgx.BeginFunc(w.ctx, w.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(w.ctx, "SET LOCAL synchronous_commit = on"); err != nil {
			return err
		}
		_, err := tx.Exec(w.ctx, `
			INSERT INTO jobs (topic, payload, fire_at)
			SELECT $1 || '/t', 'p', clock_timestamp() + $3::interval * n / $2 FROM generate_series(1, $2::integer) n`, w.prefix, n, within)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestStateChangedByHand: somebody changes the scheduler's tables by hand. What was needed is
// restored within seconds, and an instance that has lost a lane does not go on using it.
func TestStateChangedByHand(t *testing.T) {
	for name, tt := range map[string]struct {
		change string
		// repeats: jobs may be repeated, as messages on their way are in no journal any more.
		repeats bool
	}{
		"epochs set back":          {"UPDATE reactor.lanes SET epoch = 0", false},
		"journal emptied":          {"DELETE FROM reactor.in_flight", true},
		"instances forgotten":      {"TRUNCATE reactor.instances", false},
		"lanes without owners":     {"UPDATE reactor.lanes SET owner = NULL", false},
		"lanes forgotten":          {"DELETE FROM reactor.lanes", false},
		"shards of nobody":         {"UPDATE reactor.shards SET owner = 42", false},
		"marks of another session": {"UPDATE reactor.lanes SET mark = 'nothing'", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", "")
			w.start(reactor.Config{})
			w.start(reactor.Config{})
			w.sharesOf(2)
			w.insert(4000, 0, 2*time.Second)
			if err := w.subscriber.WaitDistinct(w.ctx, 1000); err != nil {
				t.Fatal(err)
			}
			w.exec(tt.change)
			changed := time.Now()
			w.eventually("all are processed, and none is on its way",
				"SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed) AND NOT EXISTS (SELECT FROM reactor.in_flight)")
			took := time.Since(changed)
			if took > 10*time.Second {
				t.Errorf("recovered after %v", took)
			}
			report := w.delivered()
			if report.Duplicated.Count > 0 && !tt.repeats || report.Lost.Count > 0 && !tt.repeats {
				t.Error(report.Err())
			}
			t.Logf("recovered after %v; %d lost, %d repeated", took, report.Lost.Count, report.Duplicated.Count)
			w.sharesOf(2)
			w.everyLaneWorks()
			n := 500
			w.insert(n, 0, 0)
			expected, err := check.ExpectedFromDB(w.ctx, w.db, "id > 4000")
			if err != nil {
				t.Fatal(err)
			}
			w.until("later jobs are published", func() bool {
				return check.Compare(expected, w.subscriber.Received(), check.Config{}).Published == n
			})
		})
	}
}

// TestEpochsLostWhileIdle: a failover brings back the lanes' rows from before we raised their
// epochs. No job is due, so no claim shows that. The lanes are leased again even so.
func TestEpochsLostWhileIdle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	in := w.start(reactor.Config{})
	w.sharesOf(1)
	w.until("the lanes and the feed are up", func() bool { return in.Stats().LanesUp == in.Stats().Lanes && in.Stats().FeedUp })
	w.exec("UPDATE reactor.lanes SET epoch = 0")
	w.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'")
	w.eventually("the lanes are leased anew", "SELECT count(*) >= 2 AND bool_and(epoch > 0) FROM reactor.lanes WHERE owner IS NOT NULL")
	w.insert(100, 0, 0)
	w.judge()
}
