package reactor_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
	schema "github.com/job-publisher/reactor/sql"
)

// noSweep is a loop that is longer than a test: a job that is not announced is late.
const noSweep = time.Minute

// hears waits until an instance gets its hints from these feeds.
func (w *world) hears(in *instance, feeds string) {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for in.Stats().Feed.Kind != feeds {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("the instance gets its hints from %+v, want %q", in.Stats().Feed, feeds)
		}
	}
}

// insertWhile adds jobs one by one, due soon, until it is told to stop.
func (w *world) insertWhile() (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	conn := w.connect()
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; n++ {
			if _, err := conn.Exec(w.ctx, "INSERT INTO jobs (topic, payload, fire_at) VALUES ($1, $2, clock_timestamp() + interval '50 milliseconds')",
				w.prefix+"/one", "payload"); err != nil {
				w.t.Errorf("insert: %v", err)
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// TestFeedAnnounces: each feed announces jobs that are due at once, without a sweep.
func TestFeedAnnounces(t *testing.T) {
	t.Parallel()
	for _, feed := range []pgsource.Feed{pgsource.FeedNotify, pgsource.FeedWAL} {
		t.Run(feed.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", "")
			w.use(feed)
			for range 3 {
				w.hears(w.start(reactor.Config{LoopFrequency: noSweep}), feed.String())
			}
			w.sharesOf(3)
			stop := w.insertWhile()
			w.insert(3000, 0, 2*time.Second)
			w.insert(500, time.Second, time.Second)
			if err := w.subscriber.WaitDistinct(w.ctx, 3500); err != nil {
				t.Fatal(err)
			}
			stop()
			if report := w.judge(); report.MaxLateness > noSweep/4 {
				t.Errorf("up to %v late, so not all were announced", report.MaxLateness)
			}
		})
	}
}

// TestLateCommitOverWAL: the transaction wrote its jobs when they were too far away to be
// announced, and commits when they are overdue. The sweep does not help here.
func TestLateCommitOverWAL(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.use(pgsource.FeedWAL)
	w.hears(w.start(reactor.Config{LoopFrequency: noSweep, Horizon: time.Second}), "wal")
	w.sharesOf(1)
	tx, err := w.connect().Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(w.ctx, "INSERT INTO jobs (topic, payload, fire_at) VALUES ($1, 'payload', clock_timestamp() + interval '2 seconds')", w.prefix+"/late"); err != nil {
		t.Fatal(err)
	}
	// A job that falls due later is published before it.
	w.insert(1, 2500*time.Millisecond, 2500*time.Millisecond)
	if err := w.subscriber.WaitDistinct(w.ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(w.ctx); err != nil {
		t.Fatal(err)
	}
	committed := time.Now()
	if err := w.subscriber.WaitDistinct(w.ctx, 2); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(committed); took > 5*time.Second {
		t.Errorf("published %v after its commit", took)
	}
}

// TestFeedChangesOver: the deployment goes from the triggers to the WAL and back, while jobs
// are inserted and no sweep would find what was not announced. Instances join meanwhile.
func TestFeedChangesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	cfg := reactor.Config{LoopFrequency: noSweep}
	all := []*instance{w.start(cfg), w.start(cfg)}
	w.sharesOf(2)
	for _, in := range all {
		w.hears(in, "notify")
	}
	stop := w.insertWhile()
	for _, to := range []pgsource.Feed{pgsource.FeedWAL, pgsource.FeedNotify, pgsource.FeedWAL} {
		joined := make(chan *instance, 1)
		go func() { joined <- w.start(cfg) }()
		if err := (pgsource.FeedSwitch{DatabaseURL: w.databaseURL, To: to, Tell: func(step string) { t.Log(step) }}).Run(w.ctx); err != nil {
			t.Fatal(err)
		}
		all = append(all, <-joined)
		for _, in := range all {
			w.hears(in, to.String())
		}
		var triggers, publications int
		if err := w.db.QueryRow(w.ctx, `SELECT (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'jobs'::regclass AND NOT tgisinternal), (SELECT count(*) FROM pg_publication)`).Scan(&triggers, &publications); err != nil {
			t.Fatal(err)
		}
		if triggers+publications != 2 || (publications == 2) != (to == pgsource.FeedWAL) {
			t.Errorf("changed over to %v: %d triggers, %d publications", to, triggers, publications)
		}
	}
	stop()
	if report := w.judge(); report.MaxLateness > 3*time.Second {
		t.Errorf("up to %v late", report.MaxLateness)
	}
	for _, in := range all {
		if s := in.Stats(); s.FeedLosses > 0 {
			t.Errorf("an instance lost its feed %d times", s.FeedLosses)
		}
	}
}

// TestFeedDoesNotChangeOver: the error names an instance that does not change over, and that
// instance keeps its feed.
func TestFeedDoesNotChangeOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.hears(w.start(reactor.Config{LoopFrequency: noSweep}, func(s *pgsource.Config, _ *mqttsink.Config) {
		s.Feed, s.Name = pgsource.FeedNotify, "stubborn"
	}), "notify")
	follower := w.start(reactor.Config{LoopFrequency: noSweep})
	w.sharesOf(2)
	err := pgsource.FeedSwitch{DatabaseURL: w.databaseURL, To: pgsource.FeedWAL, Patience: time.Second}.Run(w.ctx)
	if err == nil || !strings.Contains(err.Error(), "stubborn hears by notify") || strings.Contains(err.Error(), "\n") {
		t.Errorf("changing over: %v", err)
	}
	w.hears(follower, "wal,notify")
	stop := w.insertWhile()
	w.insert(500, 0, time.Second)
	if err := w.subscriber.WaitDistinct(w.ctx, 600); err != nil {
		t.Fatal(err)
	}
	stop()
	if report := w.judge(); report.MaxLateness > 2*time.Second {
		t.Errorf("up to %v late", report.MaxLateness)
	}
	if err := (pgsource.FeedSwitch{DatabaseURL: w.databaseURL, To: pgsource.FeedNotify}).Run(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.hears(follower, "notify")
}

// TestFeedLostAndFound: walsenders are ended again and again, while others write.
func TestFeedLostAndFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.use(pgsource.FeedWAL)
	in := w.start(reactor.Config{LoopFrequency: noSweep})
	w.hears(in, "wal")
	w.sharesOf(1)
	stop := w.insertWhile()
	if err := w.subscriber.WaitDistinct(w.ctx, 100); err != nil {
		t.Fatal(err)
	}
	for losses := range int64(3) {
		w.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()")
		tick := time.NewTicker(time.Millisecond)
		for in.Stats().FeedLosses <= losses {
			select {
			case <-tick.C:
			case <-w.ctx.Done():
				t.Fatal("the instance does not notice that its feed was lost")
			}
		}
		tick.Stop()
		if h := in.Stats().Health(); !h.Ready {
			t.Errorf("not ready: %v", h.Problems)
		}
		w.hears(in, "wal")
	}
	stop()
	if report := w.judge(); report.MaxLateness > 3*time.Second {
		t.Errorf("up to %v late", report.MaxLateness)
	}
	w.eventually("there is one slot", "SELECT count(*) = 1 FROM pg_replication_slots WHERE database = current_database()")
	in.halt(t)
	w.eventually("no slot is left", "SELECT count(*) = 0 FROM pg_replication_slots WHERE database = current_database()")
}

// TestFeedAuto: without triggers it is the WAL. If the triggers come back, their notifications
// are used, too.
func TestFeedAuto(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.exec(schema.TriggersDown)
	in := w.start(reactor.Config{LoopFrequency: noSweep, Logger: testkit.Logger(t)})
	w.hears(in, "wal")
	w.exec(schema.TriggersUp + "; NOTIFY reactor_membership; SELECT pg_logical_emit_message(true, 'reactor_membership', '')")
	w.hears(in, "wal,notify")
	w.exec(schema.PublicationsDown + "; NOTIFY reactor_membership")
	w.hears(in, "notify")
}
