package reactor_test

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// Tests of the whole path: rows that plain SQL inserts into a real PostgreSQL are received from
// a real Mosquitto, each once, none early.

func TestBacklog(t *testing.T) {
	for _, delivery := range []reactor.Delivery{reactor.AtLeastOnce, reactor.AtMostOnce} {
		t.Run(delivery.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", "")
			w.start(reactor.Config{Delivery: delivery})
			w.insert(5000, 0, 0)
			w.insert(1000, -time.Hour, -time.Minute)
			w.judge()
		})
	}
}

func TestSpreadOverInstances(t *testing.T) {
	for name, cfg := range map[string]func(i int) reactor.Config{
		"dynamic": func(int) reactor.Config { return reactor.Config{} },
		"static":  func(i int) reactor.Config { return reactor.Config{ConsumerCount: 5, ConsumerIndex: i} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", "")
			var all []*instance
			for i := range 5 {
				all = append(all, w.start(cfg(i)))
			}
			if name == "dynamic" {
				w.sharesOf(5)
			}
			w.insert(2000, 0, 0)
			w.insert(3000, 0, 2*time.Second)
			w.insert(500, time.Second, time.Second) // one instant
			w.judge()
			for i, in := range all {
				if in.Stats().Published == 0 {
					t.Errorf("instance %d published nothing", i)
				}
			}
		})
	}
}

// TestMembersComeAndGo: instances join, leave, and join again while jobs are due.
func TestMembersComeAndGo(t *testing.T) {
	overFeeds(t, func(t *testing.T, w *world) {
		first := w.start(reactor.Config{})
		w.sharesOf(1)
		w.insert(6000, 0, 3*time.Second)
		second := w.start(reactor.Config{})
		w.sharesOf(2)
		first.halt(t)
		w.sharesOf(1)
		w.start(reactor.Config{})
		w.sharesOf(2)
		second.halt(t)
		w.judge()
	})
}

// TestCancelAndReschedule: until the claim only the row counts, not the wheel's copy of it.
func TestCancelAndReschedule(t *testing.T) {
	overFeeds(t, func(t *testing.T, w *world) {
		in := w.start(reactor.Config{})
		w.sharesOf(1)
		w.insert(40, 1500*time.Millisecond, 1500*time.Millisecond)
		loaded := time.NewTicker(time.Millisecond)
		defer loaded.Stop()
		for in.Stats().Pending < 40 {
			select {
			case <-loaded.C:
			case <-w.ctx.Done():
				t.Fatalf("%d jobs are loaded", in.Stats().Pending)
			}
		}
		w.exec("DELETE FROM jobs WHERE id % 4 = 0")
		w.exec("UPDATE jobs SET processed = true WHERE id % 4 = 1")
		w.exec("UPDATE jobs SET fire_at = fire_at + interval '1 second' WHERE id % 4 = 2")
		w.exec("UPDATE jobs SET fire_at = now() WHERE id % 4 = 3")
		expected, err := check.ExpectedFromDB(w.ctx, w.db, "id % 4 IN (2, 3)")
		if err != nil {
			t.Fatal(err)
		}
		report := w.judgeThese(expected)
		if report.Published != 20 || report.MaxLateness > time.Second {
			t.Errorf("published %d of 20, the latest %v late: a job moved forward must not wait for its old time", report.Published, report.MaxLateness)
		}
	})
}

// TestFarFutureStaysSilent: jobs that are due next year, and a stop in between, have no effect
// on others.
func TestFarFutureStaysSilent(t *testing.T) {
	overFeeds(t, func(t *testing.T, w *world) {
		in := w.start(reactor.Config{})
		w.exec("INSERT INTO jobs (topic, fire_at) SELECT $1 || '/later', now() + interval '1 year' FROM generate_series(1, 1000)", w.prefix)
		w.insert(10, 0, 100*time.Millisecond)
		expected, err := check.ExpectedFromDB(w.ctx, w.db, "fire_at < now() + interval '1 day'")
		if err != nil {
			t.Fatal(err)
		}
		w.judgeThese(expected)
		in.halt(t)
		if s := in.Stats(); s.Claimed != 10 || s.Pending != 0 {
			t.Errorf("claimed %d, %d pending", s.Claimed, s.Pending)
		}
		w.eventually("the far future is untouched", "SELECT count(*) = 1000 FROM jobs WHERE NOT processed")
		w.eventually("everything is released", `
			SELECT NOT EXISTS (SELECT FROM reactor.instances) AND NOT EXISTS (SELECT FROM reactor.shards WHERE owner IS NOT NULL)
			   AND NOT EXISTS (SELECT FROM reactor.lanes WHERE owner IS NOT NULL)`)
	})
}

// TestLocksBlockNobody: a row that somebody has locked is claimed when the lock ends, and no
// other job waits for it.
func TestLocksBlockNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.start(reactor.Config{})
	w.sharesOf(1)
	w.insert(100, 300*time.Millisecond, 300*time.Millisecond)
	other := w.connect()
	tx, err := other.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(w.ctx)
	if _, err := tx.Exec(w.ctx, "SELECT FROM jobs WHERE id % 10 = 0 FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	if err := w.subscriber.WaitDistinct(w.ctx, 90); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(w.ctx); err != nil { // no trigger fires, and no hint comes
		t.Fatal(err)
	}
	w.judge()
}

// TestMaxReads publishes what the reads found, and ends.
func TestMaxReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.insert(3000, 0, 0)
	in := w.start(reactor.Config{MaxReads: 2, JobsPerRead: 640})
	if err := <-in.ended; err != nil {
		t.Fatal(err)
	}
	in.ended <- nil
	s := in.Stats()
	// To look again at what a claim did not get is one more.
	if s.Loads < 2 || s.Published == 0 || s.Published > 1280 {
		t.Errorf("%d reads, %d published, want 2 or more and 1 to 1280", s.Loads, s.Published)
	}
	expected, err := check.ExpectedFromDB(w.ctx, w.db, "processed")
	if err != nil {
		t.Fatal(err)
	}
	w.judgeThese(expected)
}

// TestMaxReadsWithoutGrace: such an instance ends as well, without an error, and ends its
// membership.
func TestMaxReadsWithoutGrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	in := w.start(reactor.Config{MaxReads: 1, Grace: reactor.NoGrace})
	if err := <-in.ended; err != nil {
		t.Error(err)
	}
	in.ended <- nil
	w.eventually("it has left", "SELECT count(*) = 0 FROM reactor.instances")
}

// TestBrokerRefusesTopics: jobs that the broker refuses end as failed, with its reason, and
// delay no other job.
func TestBrokerRefusesTopics(t *testing.T) {
	t.Parallel()
	acl := writeFile(t, "acl", "topic readwrite #\ntopic deny forbidden/#\n")
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{ExtraLines: []string{"acl_file " + acl}})
	w := newWorld(t, "", broker.URL())
	w.start(reactor.Config{}, func(s *pgsource.Config, _ *mqttsink.Config) {
		s.RetryAttempts, s.RetryBackoff = 3, 10*time.Millisecond
	})
	w.exec("INSERT INTO jobs (topic, fire_at) SELECT 'forbidden/x', now() FROM generate_series(1, 10)")
	w.exec("INSERT INTO jobs (topic, fire_at, expires_at) VALUES ('expired', now() - interval '1 hour', now() - interval '1 minute')")
	w.insert(1000, 0, 0)
	expected, err := check.ExpectedFromDB(w.ctx, w.db, "topic NOT IN ('forbidden/x', 'expired')")
	if err != nil {
		t.Fatal(err)
	}
	w.judgeThese(expected)
	w.eventually("the refused jobs have failed", `
		SELECT count(*) = 10 AND bool_and(attempts = 3 AND code = 135 AND reason LIKE 'not authorized%')
		  FROM reactor.failed_jobs WHERE code <> 0`)
	w.eventually("the expired job has failed", "SELECT count(*) = 1 FROM reactor.failed_jobs WHERE reason LIKE 'expired%'")
}

// TestPoisonJob: mosquitto closes the connection of whoever publishes to a topic of more
// than 200 levels. Such a job fails, with the reason, and its neighbours are published.
func TestPoisonJob(t *testing.T) {
	for _, delivery := range []reactor.Delivery{reactor.ExactlyOnce, reactor.AtLeastOnce} {
		t.Run(delivery.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", "")
			w.exec("INSERT INTO jobs (topic, fire_at) VALUES ('poison' || repeat('/x', 300), now())")
			w.insert(500, 0, 0)
			w.start(reactor.Config{Delivery: delivery})
			expected, err := check.ExpectedFromDB(w.ctx, w.db, "topic NOT LIKE 'poison%'")
			if err != nil {
				t.Fatal(err)
			}
			w.judgeThese(expected)
			w.eventually("the poison has failed", `
				SELECT count(*) = 1 AND bool_and(reason LIKE 'the broker ends the connection whenever it is sent this message: %')
				  FROM reactor.failed_jobs`)
			w.eventually("the journal is empty", "SELECT NOT EXISTS (SELECT FROM reactor.in_flight)")
		})
	}
}

// TestPostgresRestarts: a restart, clean or not, while jobs are due loses no job, and no
// instance is declared dead because of it.
func TestPostgresRestarts(t *testing.T) {
	for name, stop := range map[string]func(*stack.Postgres) error{
		"fast":      (*stack.Postgres).Stop,
		"immediate": (*stack.Postgres).StopImmediate,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true, Durable: true})
			w := newWorldOn(t, server)
			a, b := w.start(reactor.Config{}), w.start(reactor.Config{})
			w.sharesOf(2)
			w.insert(8000, 0, 4*time.Second)
			if err := w.subscriber.WaitDistinct(w.ctx, 1000); err != nil {
				t.Fatal(err)
			}
			if err := stop(server); err != nil {
				t.Fatal(err)
			}
			if err := server.Start(w.ctx); err != nil {
				t.Fatal(err)
			}
			w.db = w.connect()
			w.judge()
			for _, in := range []*instance{a, b} {
				if s := in.Stats(); s.Recovered != 0 {
					t.Errorf("an instance recovered %d jobs, though no instance died", s.Recovered)
				}
			}
		})
	}
}

// TestBrokerRestarts: with persistence nothing is lost by a clean restart. At QoS 1, what the
// broker had taken and not acknowledged when it stopped is sent again; the subscriber may
// see it twice. At QoS 2 it may not.
func TestBrokerRestarts(t *testing.T) {
	for _, delivery := range []reactor.Delivery{reactor.ExactlyOnce, reactor.AtLeastOnce} {
		t.Run(delivery.String(), func(t *testing.T) {
			t.Parallel()
			broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{Persistence: true, Autosave: time.Hour})
			w := newWorld(t, "", broker.URL())
			in := w.start(reactor.Config{Delivery: delivery})
			w.insert(8000, 0, 4*time.Second)
			if err := w.subscriber.WaitDistinct(w.ctx, 1000); err != nil {
				t.Fatal(err)
			}
			if err := broker.Restart(w.ctx); err != nil {
				t.Fatal(err)
			}
			if delivery == reactor.ExactlyOnce {
				w.judge()
				if s := in.Stats(); s.OutcomesUnknown != 0 {
					t.Errorf("%d outcomes are unknown, though the broker has kept its sessions", s.OutcomesUnknown)
				}
				return
			}
			expected, err := check.ExpectedFromDB(w.ctx, w.db, "true")
			if err != nil {
				t.Fatal(err)
			}
			if err := w.subscriber.WaitDistinct(w.ctx, len(expected)); err != nil {
				t.Fatal(err)
			}
			report := check.Compare(expected, w.subscriber.Received(), check.Config{})
			if report.Lost.Count > 0 || report.Early.Count > 0 || report.Foreign.Count > 0 || report.Duplicated.Count > driver.LaneSlots {
				t.Error(report.Err())
			}
			t.Logf("%d of %d jobs were received twice", report.Duplicated.Count, len(expected))
			w.settled()
		})
	}
}

// TestBackpressure: while the broker is away, no more jobs are claimed than the lanes have
// slots, and the backlog is published when the broker is back.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	proxy := testkit.NewProxy(t, w.brokerURL)
	const lanes = 2 // one of them takes bulk, and the other what has just fallen due
	in := w.start(reactor.Config{Lanes: lanes, MaxPending: 2048, JobsPerRead: 1024}, func(_ *pgsource.Config, s *mqttsink.Config) {
		s.URL = proxy.Through(w.brokerURL)
	})
	w.insert(100, 0, 0)
	if err := w.subscriber.WaitDistinct(w.ctx, 100); err != nil {
		t.Fatal(err)
	}
	// A lane that has not begun its session yet takes no jobs, and cannot begin one while nothing gets through.
	w.until("its lanes know their broker", func() bool { return in.Stats().LanesStaging == lanes })
	proxy.Stall(netfault.ToServer)
	w.insert(20000, 0, 0)
	full := time.NewTicker(5 * time.Millisecond)
	defer full.Stop()
	// Memory is filled again only when there is more room than for a few jobs, so up to a share of it may be free.
	for s := in.Stats(); s.InFlight < driver.LaneSlots-512 || s.Pending < 512; s = in.Stats() {
		select {
		case <-full.C:
		case <-w.ctx.Done():
			t.Fatalf("not under pressure: %+v", s)
		}
	}
	if s := in.Stats(); s.InFlight > lanes*driver.LaneSlots || s.Pending > 2048+512 {
		t.Errorf("more in memory than allowed: %d in flight, %d pending", s.InFlight, s.Pending)
	}
	proxy.Resume(netfault.ToServer)
	w.judge()
}

// TestDeposedInstanceComesBack: an instance whose database connections stall for longer than
// its time to live is replaced, and joins again when it can. Its jobs are published by the
// other; at QoS 1 some may be published twice, none is lost.
func TestDeposedInstanceComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	proxy := testkit.NewProxy(t, w.databaseURL)
	short := func(s *pgsource.Config, _ *mqttsink.Config) {
		s.TTL, s.StatementTimeout = time.Second, 2*time.Second
	}
	w.start(reactor.Config{}, short)
	w.start(reactor.Config{}, short, func(s *pgsource.Config, _ *mqttsink.Config) { s.DatabaseURL = proxy.Through(w.databaseURL) })
	w.sharesOf(2)
	w.insert(3000, 0, 4*time.Second)
	proxy.Stall(netfault.ToServer, netfault.ToClient)
	w.sharesOf(1)
	proxy.Resume(netfault.ToServer, netfault.ToClient)
	w.sharesOf(2)
	expected, err := check.ExpectedFromDB(w.ctx, w.db, "true")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.subscriber.WaitDistinct(w.ctx, len(expected)); err != nil {
		t.Fatal(err)
	}
	report := check.Compare(expected, w.subscriber.Received(), check.Config{})
	if report.Lost.Count > 0 || report.Early.Count > 0 || report.Foreign.Count > 0 {
		t.Error(report.Err())
	}
	w.settled()
}

// TestFeedIsOnlyAHint: without triggers the sweep finds all jobs.
func TestFeedIsOnlyAHint(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.feed = pgsource.FeedNotify
	w.exec("DROP TRIGGER reactor_jobs_inserted ON jobs; DROP TRIGGER reactor_jobs_updated ON jobs")
	w.start(reactor.Config{LoopFrequency: 100 * time.Millisecond})
	w.sharesOf(1)
	w.insert(500, 0, time.Second)
	w.judge()
}

// TestMembershipIsLookedUpWithTheFeed: notifications about shards and lanes are missed while
// the feed is not connected. When it connects, a heartbeat is sent at once, so that the changes
// are not found only with the next regular heartbeat.
func TestMembershipIsLookedUpWithTheFeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	proxy := testkit.NewProxy(t, w.databaseURL)
	proxy.Refuse()
	leaver := w.start(reactor.Config{})
	w.sharesOf(1)
	w.start(reactor.Config{}, func(s *pgsource.Config, _ *mqttsink.Config) {
		s.ListenURL = proxy.Through(w.databaseURL)
		s.TTL = 10 * time.Minute // heartbeats come about every three minutes
	})
	w.sharesOf(2)
	leaver.halt(t) // the leaver gives its shards to the other instance, which gets no notification
	w.sharesOf(1)
	if err := proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	w.insert(500, 0, 0)
	w.judge()
}
