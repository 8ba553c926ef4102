package reactor_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// waitFull waits until memory holds as many jobs that are due later as it takes.
func waitFull(w *world, in *instance, pending int64) {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for in.Stats().Pending < pending {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("memory holds %d jobs only", in.Stats().Pending)
		}
	}
}

// TestUrgentWithFullMemory: there are more jobs in the next seconds than fit in memory. Jobs
// that are due now are published now, whether they are announced or found by the sweep, and the
// others at their time.
func TestUrgentWithFullMemory(t *testing.T) {
	overFeeds(t, func(t *testing.T, w *world) {
		// Before the first read: nothing announces them over the feed poll, and the sweep finds them
		// only two loops before they are due.
		w.insert(6000, 8*time.Second, 12*time.Second)
		in := w.start(reactor.Config{MaxPending: 1024, JobsPerRead: 256, LoopFrequency: time.Second})
		w.sharesOf(1)
		waitFull(w, in, 768)
		w.insert(300, 200*time.Millisecond, 700*time.Millisecond)
		w.exec("ALTER TABLE jobs DISABLE TRIGGER USER")
		w.insert(300, 0, 2*time.Second)
		w.exec("ALTER TABLE jobs ENABLE TRIGGER USER")
		if err := w.subscriber.WaitDistinct(w.ctx, 600); err != nil {
			t.Fatal(err)
		}
		var early bool
		if err := w.db.QueryRow(w.ctx, "SELECT min(fire_at) > clock_timestamp() FROM jobs WHERE NOT processed").Scan(&early); err != nil {
			t.Fatal(err)
		}
		if !early {
			t.Error("the urgent jobs were published only when the others were due")
		}
		report := w.judge()
		t.Logf("up to %v late", report.MaxLateness)
		if report.MaxLateness > 2500*time.Millisecond {
			t.Errorf("up to %v late; the sweep's bound is a second", report.MaxLateness)
		}
	})
}

// TestMemorySmallerThanRead: MaxPending below JobsPerRead used to load nothing at all.
func TestMemorySmallerThanRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.start(reactor.Config{MaxPending: 1024, JobsPerRead: 100_000})
	w.insert(5000, -time.Minute, time.Second)
	w.judge()
}

// rangeSource notes the widest range that is read by id.
type rangeSource struct {
	*pgsource.Source
	widest atomic.Uint64
}

func (s *rangeSource) LoadRange(ctx context.Context, shards driver.ShardSet, minID, maxID int64, from, until driver.DBTime) ([]driver.Pending, error) {
	s.widest.Store(max(s.widest.Load(), uint64(maxID)-uint64(minID)))
	return s.Source.LoadRange(ctx, shards, minID, maxID, from, until)
}

// TestFarApartIDsInTheTable: ids are any bigint, and the difference of two ids of one statement
// may overflow a bigint. Such jobs are published at once, and the whole table is not read by id
// for them.
func TestFarApartIDsInTheTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	source, err := pgsource.New(pgsource.Config{DatabaseURL: w.databaseURL, Logger: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	sink, err := mqttsink.New(mqttsink.Config{URL: w.brokerURL, Logger: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ranges := &rangeSource{Source: source}
	// The sweep would come too late.
	r, err := reactor.New(ranges, sink, reactor.Config{LoopFrequency: 20 * time.Second, Logger: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(w.ctx)
	in := &instance{Reactor: r, stop: stop, ended: make(chan error, 1)}
	go func() { in.ended <- r.Run(ctx) }()
	defer in.halt(t)
	w.sharesOf(1)
	w.insert(10, 0, 0)
	if err := w.subscriber.WaitDistinct(w.ctx, 10); err != nil {
		t.Fatal(err)
	}
	w.insert(2000, time.Hour, 2*time.Hour)
	// Many pairs, as a producer with random ids makes them, and the smallest and largest ids.
	w.exec(`INSERT INTO jobs (id, topic, payload, fire_at)
		SELECT id, $1 || '/far', 'payload', now() FROM (VALUES (-6000000000000000000), (6000000000000000000)) v (id)`, w.prefix)
	w.exec(`INSERT INTO jobs (id, topic, payload, fire_at)
		SELECT id, $1 || '/ends', 'payload', now() FROM (VALUES (-9223372036854775807), (9223372036854775807)) v (id)`, w.prefix)
	for range 50 {
		w.exec(`INSERT INTO jobs (id, topic, payload, fire_at)
			SELECT (random() * 9e18)::bigint * (2 * n - 1), $1 || '/random', 'payload', now() FROM generate_series(0, 1) n`, w.prefix)
	}
	w.exec("DELETE FROM jobs WHERE NOT processed AND fire_at > now() + interval '1 minute'")
	report := w.judge()
	t.Logf("up to %v late, %d reads", report.MaxLateness, in.Stats().Loads)
	if widest := ranges.widest.Load(); widest >= 4096 {
		t.Errorf("a range of %d ids was read", widest)
	}
	if report.MaxLateness > 2*time.Second {
		t.Errorf("up to %v late", report.MaxLateness)
	}
}

// TestLateCommit: a transaction was open until long after its jobs were due, and did not
// announce them, as they were beyond the notify horizon when it wrote them.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.start(reactor.Config{LoopFrequency: 500 * time.Millisecond})
	w.sharesOf(1)
	w.insert(10, 0, 0)
	if err := w.subscriber.WaitDistinct(w.ctx, 10); err != nil {
		t.Fatal(err)
	}
	w.exec("SET session_replication_role = replica") // in place of waiting for a minute: no trigger fires
	w.insert(300, -3*time.Hour, -6*time.Second)
	w.insert(300, -6*time.Second, time.Second)
	committed := time.Now()
	if err := w.subscriber.WaitDistinct(w.ctx, 610); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(committed); took > 3*time.Second {
		t.Errorf("the last was published %v after the commit, with a loop of 0.5 s", took)
	}
	w.judge()
}
