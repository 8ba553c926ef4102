package reactor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// fakeSource is a driver.Source: a table in memory, of which one shard is used, and the
// memberships of an instance. It notes the events of the memberships and of the lanes.
type fakeSource struct {
	*fakeJournal
	start time.Time

	mu       sync.Mutex
	rows     map[int64]driver.Job // guarded by mu: unprocessed
	events   []string             // guarded by mu
	reported driver.Snapshot      // guarded by mu: the last
	deposed  bool                 // guarded by mu: the next heartbeat says so
	locked   int                  // guarded by mu: so many claims find all rows locked by somebody else
	joins    int                  // guarded by mu
	strange  error                // guarded by mu: why nobody may join
}

func (s *fakeSource) event(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, what)
}

func (s *fakeSource) Open(context.Context) error { return nil }
func (s *fakeSource) Close()                     {}
func (s *fakeSource) now() driver.DBTime {
	return driver.DBTime(time.Since(s.start) / time.Microsecond)
}
func (s *fakeSource) Now(context.Context) (driver.DBTime, error) { return s.now(), nil }
func (s *fakeSource) FeedState() driver.FeedState                { return driver.FeedState{} }
func (s *fakeSource) Listen(ctx context.Context, on func(driver.Hint)) error {
	on(driver.Hint{Kind: driver.HintConnected})
	<-ctx.Done()
	return ctx.Err()
}

func (s *fakeSource) Join(context.Context, driver.JoinOptions) (driver.Member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.strange != nil {
		return nil, s.strange
	}
	s.joins++
	return &sourceMember{s}, nil
}

func (s *fakeSource) Settled(context.Context) (driver.DBTime, error) { return s.now(), nil }

func (s *fakeSource) pending(until driver.DBTime) (list []driver.Pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, job := range s.rows {
		if job.FireAt < until {
			list = append(list, driver.Pending{ID: job.ID, DueAt: job.FireAt, FireAt: job.FireAt})
		}
	}
	return list
}

func (s *fakeSource) LoadWindow(_ context.Context, _ []driver.Cursor, until driver.DBTime, _ int) ([]driver.Pending, []driver.Cursor, error) {
	return s.pending(until), nil, nil
}

func (s *fakeSource) LoadRange(_ context.Context, _ driver.ShardSet, _, _ int64, _, until driver.DBTime) ([]driver.Pending, error) {
	return s.pending(until), nil
}

func (s *fakeSource) LoadIDs(_ context.Context, _ driver.ShardSet, _ []int64, _, until driver.DBTime, _ bool) ([]driver.Pending, error) {
	return s.pending(until), nil
}

func (s *fakeSource) Claim(_ context.Context, req driver.ClaimRequest) (driver.Batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := driver.Batch{Token: req.Token, FirstSlot: req.FirstSlot, Reach: req.Reach, QoS: req.QoS}
	if s.locked > 0 {
		s.locked--
		return b, nil
	}
	for _, id := range req.IDs {
		if job, ok := s.rows[id]; ok {
			b.Jobs = append(b.Jobs, job)
			delete(s.rows, id)
		}
	}
	return b, nil
}

// sourceMember is a membership.
type sourceMember struct{ source *fakeSource }

func (m *sourceMember) Beat(context.Context) (driver.Holding, error) {
	m.source.mu.Lock()
	defer m.source.mu.Unlock()
	if m.source.deposed {
		m.source.deposed = false
		return driver.Holding{}, driver.ErrDeposed
	}
	return driver.Holding{Shards: 1, Leases: []driver.Lease{{Lane: 1, ClientID: "client"}}}, nil
}
func (m *sourceMember) TTL() time.Duration { return fakeTTL }
func (m *sourceMember) WantLanes(int)      {}
func (m *sourceMember) Report(s driver.Snapshot) {
	m.source.mu.Lock()
	defer m.source.mu.Unlock()
	m.source.reported = s
}

func (m *sourceMember) ReleaseShards(context.Context) error {
	m.source.event("release shards")
	return nil
}

func (m *sourceMember) ReleaseLane(context.Context, driver.Lease) error {
	m.source.event("release lane")
	return nil
}

func (m *sourceMember) Leave(context.Context) error {
	m.source.event("leave")
	return nil
}

// instanceOf is a Reactor that runs on fakes.
type instanceOf struct {
	*testing.T
	*Reactor
	source *fakeSource
	broker *fakeBroker
	stop   func()
	err    error // of Run, once done is closed
	done   chan struct{}
}

func runInstance(t *testing.T, cfg Config, jobs []driver.Job, test func(in *instanceOf)) {
	synctest.Test(t, func(t *testing.T) {
		in := &instanceOf{T: t, broker: newFakeBroker(), done: make(chan struct{})}
		in.source = &fakeSource{fakeJournal: &fakeJournal{}, start: time.Now(), rows: map[int64]driver.Job{}}
		in.broker.note = func(call string) {
			if call == "disconnect" {
				in.source.event(call)
			}
		}
		for _, job := range jobs {
			in.source.rows[job.ID] = job
		}
		time.Sleep(time.Second)
		r, err := New(in.source, in.broker, cfg)
		if err != nil {
			t.Fatal(err)
		}
		r.timers = testTimers()
		in.Reactor = r // before it runs
		ctx, stop := context.WithCancel(t.Context())
		in.stop = stop
		go func() {
			defer close(in.done)
			in.err = r.Run(ctx)
		}()
		test(in)
		stop()
		<-in.done
	})
}

func jobAt(id int64, at time.Duration) driver.Job {
	return driver.Job{ID: id, Topic: fmt.Sprint("job ", id), FireAt: driver.DBTime(at / time.Microsecond)}
}

// ended checks that the instance ends in order: the lane is released when all is settled, the
// shards are released meanwhile, and the membership ends last.
func (in *instanceOf) ended(what string) {
	in.Helper()
	<-in.done
	lane := slices.DeleteFunc(slices.Clone(in.source.events), func(event string) bool { return event == "release shards" })
	if !slices.Equal(lane, []string{"disconnect", "release lane", "leave"}) || len(in.source.events) != 4 || in.err != nil {
		in.Errorf("%s: %q and %v", what, in.source.events, in.err)
	}
}

// TestIncarnation: the instance publishes jobs at their time, and stops in the order in which
// the data flows: jobs that are claimed and not sent go back, and the lane is released when all
// is settled.
func TestIncarnation(t *testing.T) {
	jobs := []driver.Job{jobAt(1, 0), jobAt(2, 10*time.Second), jobAt(3, time.Hour)}
	runInstance(t, Config{}, jobs, func(in *instanceOf) {
		time.Sleep(5 * time.Second)
		if in.broker.got("job 1") != 1 || in.broker.got("job 2") != 0 {
			in.Errorf("received %d and %d", in.broker.got("job 1"), in.broker.got("job 2"))
		}
		time.Sleep(5 * time.Second)
		if in.broker.got("job 2") != 1 || in.broker.got("job 3") != 0 {
			in.Errorf("received %d and %d", in.broker.got("job 1"), in.broker.got("job 2"))
		}
		begun := time.Now()
		in.stop()
		in.ended("stopped")
		if took := time.Since(begun); took > time.Second {
			in.Errorf("a stop with nothing to wait for takes %v", took)
		}
	})
}

// TestGrace: a stop waits for the broker's answers, but not longer than the grace. The lane is
// not released then, as its journal is not empty.
func TestGrace(t *testing.T) {
	for _, grace := range []time.Duration{NoGrace, 4 * time.Second} {
		runInstance(t, Config{Grace: grace}, []driver.Job{jobAt(1, 0)}, func(in *instanceOf) {
			in.broker.change(func(b *fakeBroker) { b.silent = true })
			time.Sleep(5 * time.Second)
			begun := time.Now()
			in.stop()
			<-in.done
			if took := time.Since(begun); took != max(grace, 0) {
				in.Errorf("a grace of %v takes %v", grace, took)
			}
			if slices.Contains(in.source.events, "release lane") || in.source.events[len(in.source.events)-1] != "leave" {
				in.Errorf("events in the end: %q", in.source.events)
			}
		})
	}
}

// TestReadsUsedUp: the instance ends when the jobs that its reads have found are published, and
// not before.
func TestReadsUsedUp(t *testing.T) {
	jobs := []driver.Job{jobAt(1, 0), jobAt(2, 20*time.Second)}
	runInstance(t, Config{MaxReads: 1}, jobs, func(in *instanceOf) {
		in.ended("used up")
		if in.broker.got("job 1") != 1 || in.broker.got("job 2") != 1 {
			in.Errorf("received %d and %d", in.broker.got("job 1"), in.broker.got("job 2"))
		}
		if at := in.source.now(); at < jobs[1].FireAt || at > jobs[1].FireAt.Add(time.Second) {
			in.Errorf("it ended at %v", at)
		}
		if n := in.Stats().InFlight; n != 0 {
			in.Errorf("%d are in flight", n)
		}
	})
}

// TestReadsUsedUpWaitsForLocks: what a claim did not get is not left behind by an instance whose reads
// are used up: it looks again until nothing that it has found is left, also if somebody else has taken
// the job meanwhile.
func TestReadsUsedUpWaitsForLocks(t *testing.T) {
	runInstance(t, Config{MaxReads: 1}, []driver.Job{jobAt(1, 10*time.Second), jobAt(2, 20*time.Second)}, func(in *instanceOf) {
		time.Sleep(5 * time.Second) // the read was made
		in.source.mu.Lock()
		in.source.locked = 3
		in.source.mu.Unlock()
		time.Sleep(10 * time.Second)
		in.source.mu.Lock()
		in.source.locked = math.MaxInt
		in.source.mu.Unlock()
		time.Sleep(time.Minute)
		select {
		case <-in.done:
			in.Fatal("it has ended while a job that it had found is locked")
		default:
		}
		in.source.mu.Lock()
		delete(in.source.rows, 2)
		in.source.mu.Unlock()
		in.ended("used up")
		if in.broker.got("job 1") != 1 || in.broker.got("job 2") != 0 {
			in.Errorf("received %d and %d", in.broker.got("job 1"), in.broker.got("job 2"))
		}
	})
}

// TestReadsUsedUpGoesByTheLanes: the end depends on the lanes, not on the statistics.
func TestReadsUsedUpGoesByTheLanes(t *testing.T) {
	runInstance(t, Config{MaxReads: 1}, []driver.Job{jobAt(1, 10*time.Second)}, func(in *instanceOf) {
		time.Sleep(5 * time.Second)
		in.stats.inFlight.Add(1000)
		in.stats.pending.Add(1000)
		<-in.done
		if at := in.source.now(); at > jobAt(1, 11*time.Second).FireAt {
			in.Errorf("it ended at %v", at)
		}
	})
}

// TestDeposedBeginsAnew: all parts of the membership that is over end at once, without a call
// of Leave, and nothing that is queued is sent. The instance joins again and goes on.
func TestDeposedBeginsAnew(t *testing.T) {
	runInstance(t, Config{}, []driver.Job{jobAt(1, 0), jobAt(2, 30*time.Second)}, func(in *instanceOf) {
		time.Sleep(5 * time.Second)
		in.source.mu.Lock()
		in.source.deposed = true
		in.source.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if in.source.joins != 2 || slices.Contains(in.source.events, "leave") {
			in.Errorf("joined %d times, %q", in.source.joins, in.source.events)
		}
		if slices.Contains(in.source.events, "disconnect") {
			in.Error("what the lanes had queued is sent, though they have other owners")
		}
		time.Sleep(30 * time.Second)
		if in.broker.got("job 2") != 1 {
			in.Error("no job is published any more")
		}
	})
}

// TestDeposedByStrangers: an instance that was deposed, and finds others then that it does not understand, ends and says
// so, instead of trying to join for ever.
func TestDeposedByStrangers(t *testing.T) {
	runInstance(t, Config{}, nil, func(in *instanceOf) {
		time.Sleep(5 * time.Second)
		in.source.mu.Lock()
		in.source.deposed, in.source.strange = true, fmt.Errorf("join: %w", driver.Protocols{Oldest: 1, Newest: 1}.Check(driver.Protocols{Oldest: 2, Newest: 3}, "other", ""))
		in.source.mu.Unlock()
		<-in.done
		var foreign *driver.ProtocolError
		if !errors.As(in.err, &foreign) || in.source.joins != 1 {
			in.Errorf("it has joined %d times, and ended with %v", in.source.joins, in.err)
		}
	})
}

// TestBrokerUnusable: the first connection fails. The instance ends with that error, and leaves
// its membership.
func TestBrokerUnusable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &fakeSource{fakeJournal: &fakeJournal{}, start: time.Now(), rows: map[int64]driver.Job{}}
		broker := newFakeBroker()
		broker.away = true
		time.Sleep(time.Second)
		r, err := New(source, broker, Config{})
		if err != nil {
			t.Fatal(err)
		}
		r.timers = testTimers()
		if err := r.Run(t.Context()); !errors.Is(err, errAway) || !slices.Equal(source.events, []string{"leave"}) {
			t.Errorf("it ended with %v, %q", err, source.events)
		}
	})
}
