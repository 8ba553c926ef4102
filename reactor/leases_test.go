package reactor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

const fakeTTL = 3 * time.Second

// fakeMember is a membership that answers with the results of its functions.
type fakeMember struct {
	beat     func(ctx context.Context) (driver.Holding, error)
	beats    atomic.Int64
	wanted   int
	reported driver.Snapshot
	released []int32
	events   []string
}

func (m *fakeMember) Beat(ctx context.Context) (driver.Holding, error) {
	m.beats.Add(1)
	return m.beat(ctx)
}
func (m *fakeMember) TTL() time.Duration { return fakeTTL }
func (m *fakeMember) WantLanes(n int)    { m.wanted = n }
func (m *fakeMember) Report(s driver.Snapshot) {
	m.reported = s
}

func (m *fakeMember) ReleaseShards(context.Context) error {
	m.events = append(m.events, "release shards")
	return nil
}

func (m *fakeMember) ReleaseLane(_ context.Context, lease driver.Lease) error {
	m.released = append(m.released, lease.Lane)
	m.events = append(m.events, "release lane")
	return nil
}

func (m *fakeMember) Leave(context.Context) error {
	m.events = append(m.events, "leave")
	return nil
}

func leasesOf(numbers ...int32) (list []driver.Lease) {
	for _, n := range numbers {
		list = append(list, driver.Lease{Lane: n, Epoch: 1})
	}
	return list
}

// TestLeasesLapse: leases are good for a TTL, counted from before the heartbeat was sent, and
// not good after a heartbeat that failed.
func TestLeasesLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeases(testClock(), discard(), &fakeMember{})
		if l.good() {
			t.Error("leases are good before the first heartbeat")
		}
		begun := l.clock.local()
		time.Sleep(time.Second) // the answer takes a second
		if doubted := l.renew(begun, nil); !doubted || !l.good() {
			t.Errorf("in doubt before: %v, good after: %v", doubted, l.good())
		}
		if time.Sleep(2*time.Second - time.Microsecond); !l.good() {
			t.Error("leases are not good until the TTL is over")
		}
		if time.Sleep(time.Microsecond); l.good() {
			t.Error("leases are good for longer than the TTL")
		}
		l.renew(l.clock.local(), nil)
		if doubted := l.renew(l.clock.local(), nil); doubted {
			t.Error("leases are in doubt after a heartbeat")
		}
		if l.lapse(); l.good() {
			t.Error("leases are good after a heartbeat that failed")
		}
	})
}

func leaseOf7() driver.Lease { return leasesOf(7)[0] }

// TestConfirm: the heartbeat that is under way may have begun before the call, so the one after
// it counts. That heartbeat is asked for, and what it says about the lane is the answer.
func TestConfirm(t *testing.T) {
	for name, c := range map[string]struct {
		held [2][]driver.Lease // of two heartbeats
		want bool
	}{
		"held":       {[2][]driver.Lease{nil, leasesOf(1, 7)}, true},
		"lost":       {[2][]driver.Lease{leasesOf(7), leasesOf(1)}, false},
		"never held": {[2][]driver.Lease{}, false},
		// Somebody else has had the lane in between.
		"held again": {[2][]driver.Lease{nil, {{Lane: 7, Epoch: 3}}}, false},
		// The claimer has raised the epoch since, or has raised it and does not know that yet.
		"raised since":      {[2][]driver.Lease{nil, {{Lane: 7, Epoch: 0}}}, true},
		"raised, not heard": {[2][]driver.Lease{nil, {{Lane: 7, Epoch: 2}}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLeases(testClock(), discard(), &fakeMember{})
				l.renew(l.clock.local(), leasesOf(7)) // before
				answer := make(chan bool, 1)
				go func() { answer <- l.confirm(t.Context(), leaseOf7) }()
				for _, held := range c.held {
					synctest.Wait()
					select {
					case <-l.beatNow:
					default:
						t.Error("no heartbeat is asked for")
					}
					select {
					case <-answer:
						t.Fatal("answered before the second heartbeat")
					default:
					}
					l.renew(l.clock.local(), held)
				}
				if got := <-answer; got != c.want {
					t.Errorf("confirmed: %v", got)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		l := newLeases(testClock(), discard(), &fakeMember{})
		l.renew(l.clock.local(), leasesOf(7))
		answers := make(chan bool)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { answers <- l.confirm(ctx, leaseOf7) }()
		synctest.Wait()
		cancel()
		if <-answers {
			t.Error("confirmed for a caller that was told to end")
		}
		go func() { answers <- l.confirm(t.Context(), leaseOf7) }()
		synctest.Wait()
		l.end()
		if <-answers || l.confirm(t.Context(), leaseOf7) {
			t.Error("confirmed after the last heartbeat")
		}
	})
}

// fakeWorker is a lane's runner that ends when it is told to.
type fakeWorker struct {
	number   int32
	claims   bool
	farAhead atomic.Bool
	busy     atomic.Bool
	resumed  int
	doubted  int
	end      chan error
	ended    bool
	slow     chan struct{} // nil, or closed when the worker may end after it was abandoned
}

func (w *fakeWorker) run(soft, hard context.Context) error {
	defer func() { w.ended = true }()
	select {
	case why := <-w.end:
		return why
	case <-soft.Done():
		wait.Sleep(hard, time.Second) // stands for the wait for the broker's answers
		return errLaneStopped
	case <-hard.Done():
		if w.slow != nil {
			<-w.slow
		}
		return hard.Err()
	}
}
func (w *fakeWorker) lease() driver.Lease { return driver.Lease{Lane: w.number} }
func (w *fakeWorker) holdsFarAhead() bool { return w.farAhead.Load() }
func (w *fakeWorker) idle() bool          { return !w.busy.Load() }
func (w *fakeWorker) resume()             { w.resumed++ }
func (w *fakeWorker) doubtJournal()       { w.doubted++ }

// beating is a running heartbeat with its leases and lanes, of which two are wanted.
type beating struct {
	*testing.T
	*heartbeat
	member  *fakeMember
	mu      sync.Mutex
	holding driver.Holding // guarded by mu
	err     error          // guarded by mu: of the next heartbeats
	workers map[int32]*fakeWorker
	owned   []driver.ShardSet // guarded by mu
	stop    func()
	abort   func()
	result  error
	done    chan struct{}
}

// Own implements shardOwner.
func (b *beating) Own(shards driver.ShardSet) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owned = append(b.owned, shards)
}

func beats(t *testing.T, test func(b *beating)) {
	synctest.Test(t, func(t *testing.T) {
		b := &beating{T: t, workers: map[int32]*fakeWorker{}, done: make(chan struct{})}
		b.member = &fakeMember{beat: func(context.Context) (driver.Holding, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.holding, b.err
		}}
		c := testClock()
		held := newLeases(c, discard(), b.member)
		l := newLanes(discard(), 2, func(lease driver.Lease, claims bool) laneWorker {
			w := &fakeWorker{number: lease.Lane, claims: claims, end: make(chan error, 1)}
			b.workers[lease.Lane] = w
			return w
		}, held.release)
		b.heartbeat = &heartbeat{
			member: b.member, leases: held, lanes: l, loader: b, clock: c, log: discard(),
			shards: new(atomic.Int64), progress: &progress{}, snapshot: func() driver.Snapshot { return driver.Snapshot{Published: 42} },
		}
		b.holding = driver.Holding{Shards: 0b11, Leases: leasesOf(1, 2)}
		soft, stop := context.WithCancel(t.Context())
		hard, abort := context.WithCancel(t.Context())
		b.stop, b.abort = stop, abort
		go func() {
			defer close(b.done)
			b.result = b.run(soft, hard)
			abort()
			l.wait()
		}()
		synctest.Wait()
		test(b)
		stop()
		abort()
		<-b.done
	})
}

// hold sets the holding that the next heartbeats return, and fail makes them fail.
func (b *beating) hold(shards driver.ShardSet, lanes ...int32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holding = driver.Holding{Shards: shards, Leases: leasesOf(lanes...)}
}

func (b *beating) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// soon asks for a heartbeat and waits for it.
func (b *beating) soon() {
	b.leases.beatSoon()
	time.Sleep(time.Millisecond)
	synctest.Wait()
}

// TestHoldingChanges: shards go to the loader, and new lanes get runners, of which as many
// claim as are wanted. Lanes that are no longer ours are abandoned, and not released, as they
// belong to others.
func TestHoldingChanges(t *testing.T) {
	beats(t, func(b *beating) {
		if len(b.workers) != 2 || !b.workers[1].claims || !b.workers[2].claims || b.member.wanted != 2 {
			b.Fatalf("running are %+v", b.workers)
		}
		b.hold(0b110, 2, 3)
		b.soon()
		if b.workers[3].claims || !b.workers[1].ended || b.workers[2].ended {
			b.Errorf("then %+v", b.workers)
		}
		b.hold(0b110, 2, 3, 4)
		b.soon()
		if !b.workers[4].claims || len(b.member.released) != 0 {
			b.Errorf("then %+v, released %v", b.workers, b.member.released)
		}
		if !slices.Equal(slices.Compact(b.owned), []driver.ShardSet{0b11, 0b110}) || b.shards.Load() != 2 {
			b.Errorf("owned were %v", b.owned)
		}
	})
}

// TestBeatsInTime: there are about three heartbeats in a time to live, and one at once when
// asked for.
func TestBeatsInTime(t *testing.T) {
	beats(t, func(b *beating) {
		time.Sleep(10 * fakeTTL)
		synctest.Wait()
		if n := b.member.beats.Load(); n < 28 || n > 34 {
			b.Errorf("%d heartbeats in ten times to live", n)
		}
		n := b.member.beats.Load()
		b.soon()
		if b.member.beats.Load() != n+1 {
			b.Error("no heartbeat when one was asked for")
		}
	})
}

// TestLaneLost: a runner that ends by itself has lost its lane. The lane is released, and
// begins again with the next lease.
func TestLaneLost(t *testing.T) {
	beats(t, func(b *beating) {
		for i, why := range []error{driver.ErrLeaseLost, errJournalChanged} {
			before := b.workers[1]
			before.end <- why
			synctest.Wait()
			if len(b.member.released) != i+1 || b.member.released[i] != 1 {
				b.Fatalf("released are %v", b.member.released)
			}
			if b.workers[1] == before || !b.workers[1].claims {
				b.Error("the lane does not begin again")
			}
		}
		// A runner that was shut down has released its lane already.
		b.workers[2].end <- errLaneStopped
		synctest.Wait()
		if len(b.member.released) != 2 {
			b.Errorf("released are %v", b.member.released)
		}
		select {
		case <-b.lanes.changed:
		default:
			b.Error("changed is not set when a runner has ended")
		}
	})
}

// TestLaneOfTheSameInstance: a lane that was lost and is ours again gets a runner when its last
// one has ended, and not before.
func TestLaneOfTheSameInstance(t *testing.T) {
	beats(t, func(b *beating) {
		before := b.workers[1]
		before.slow = make(chan struct{})
		b.holding.Leases = leasesOf(2)
		b.soon()
		b.holding.Leases = leasesOf(1, 2)
		b.soon()
		if b.workers[1] != before {
			b.Error("the lane has two runners")
		}
		close(before.slow)
		synctest.Wait()
		if b.workers[1] == before {
			b.Error("the lane has no runner any more")
		}
	})
}

// TestFatalLane: a lane's error for the whole instance ends the heartbeat, which returns it
// unchanged.
func TestFatalLane(t *testing.T) {
	beats(t, func(b *beating) {
		b.workers[2].end <- &fatalError{errAway}
		<-b.done
		if b.result != errAway || !b.workers[1].ended {
			b.Errorf("it ended with %v", b.result)
		}
	})
}

// TestEndsWhileBeatsFail: an error for the whole instance does not wait for the database. A
// lane that has ended begins again when heartbeats succeed again.
func TestEndsWhileBeatsFail(t *testing.T) {
	beats(t, func(b *beating) {
		b.fail(errAway)
		b.soon()
		before := b.workers[1]
		before.end <- driver.ErrLeaseLost
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(b.member.released) != 0 || b.workers[1] != before {
			b.Errorf("without a database: released %v", b.member.released)
		}
		b.fail(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if len(b.member.released) != 1 || b.workers[1] == before {
			b.Errorf("with one again: released %v, a new runner: %t", b.member.released, b.workers[1] != before)
		}
		b.fail(errAway)
		b.soon()
		b.workers[2].end <- &fatalError{errAway}
		<-b.done
		if b.result != errAway {
			b.Errorf("it ended with %v", b.result)
		}
	})
}

// TestLanesFarAhead: a lane that does not claim because of what it has recovered is kept, and another
// is asked for in its place.
func TestLanesFarAhead(t *testing.T) {
	beats(t, func(b *beating) {
		b.workers[1].farAhead.Store(true)
		b.soon()
		if b.member.wanted != 3 {
			b.Errorf("%d lanes are wanted", b.member.wanted)
		}
		b.hold(0b11, 1, 2, 3)
		b.soon()
		if b.workers[1].ended || !b.workers[3].claims {
			b.Errorf("the lane in its place: %+v", b.workers[3])
		}
	})
}

// TestBeatsFail: when a heartbeat fails, the leases lapse at once, heartbeats are tried again
// soon, and when one succeeds the lanes go on.
func TestBeatsFail(t *testing.T) {
	beats(t, func(b *beating) {
		b.fail(errAway)
		b.soon()
		if b.leases.good() {
			b.Error("good after a heartbeat that failed")
		}
		n := b.member.beats.Load()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n = b.member.beats.Load() - n; n < 17 || n > 30 {
			b.Errorf("%d tries in 10 s", n)
		}
		resumed := b.workers[1].resumed
		b.fail(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if !b.leases.good() || b.workers[1].resumed != resumed+1 || b.workers[1].ended {
			b.Errorf("good: %v, the lane %+v", b.leases.good(), b.workers[1])
		}
		b.soon()
		if b.workers[1].resumed != resumed+1 {
			b.Error("resume is called though the leases were not in doubt")
		}
	})
}

// TestDeposed: the others have taken over. The heartbeat says so and ends, and confirms nothing more.
func TestDeposed(t *testing.T) {
	beats(t, func(b *beating) {
		b.fail(driver.ErrDeposed)
		b.soon()
		<-b.done
		if !errors.Is(b.result, driver.ErrDeposed) || b.leases.confirm(b.Context(), func() driver.Lease { return driver.Lease{Lane: 1} }) || len(b.member.events) != 0 {
			b.Errorf("it ended with %v, after %v", b.result, b.member.events)
		}
	})
}

// TestMute: an instance whose heartbeats are answered, and whose other statements are not, does
// not renew its leases, and reads the clock at once.
func TestMute(t *testing.T) {
	beats(t, func(b *beating) {
		b.progress.answered.touch()
		time.Sleep(mutePatience*fakeTTL + fakeTTL)
		synctest.Wait()
		n := b.member.beats.Load()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if b.member.beats.Load() != n || b.leases.good() {
			b.Errorf("%d heartbeats, good: %v", b.member.beats.Load()-n, b.leases.good())
		}
		select {
		case <-b.clock.doubt:
		default:
			b.Error("no reading of the clock is asked for")
		}
		b.progress.answered.touch()
		time.Sleep(time.Second)
		synctest.Wait()
		if !b.leases.good() {
			b.Error("other statements are answered again, and heartbeats don't go on")
		}
	})
}

// TestStop: the shards are released first; leases are renewed as long as a lane needs them; no
// new lane is begun; the heartbeat ends with the last lane.
func TestStop(t *testing.T) {
	beats(t, func(b *beating) {
		begun, n := time.Now(), b.member.beats.Load()
		b.stop()
		synctest.Wait()
		if !slices.Equal(b.member.events, []string{"release shards"}) || b.owned[len(b.owned)-1] != 0 {
			b.Errorf("after %v, owned is %v", b.member.events, b.owned)
		}
		if b.member.beats.Load() != n+1 {
			b.Error("no heartbeat gives the released shards to others, which may get no notification")
		}
		b.hold(0b11, 1, 2, 3)
		b.soon()
		if b.workers[3] != nil || b.member.beats.Load() < n+1 || b.owned[len(b.owned)-1] != 0 {
			b.Errorf("%d heartbeats, owned is %v, a new lane: %v", b.member.beats.Load()-n, b.owned, b.workers[3])
		}
		<-b.done
		if took := time.Since(begun); b.result != nil || took != time.Second || len(b.member.released) != 0 {
			b.Errorf("it ended with %v after %v, released %v", b.result, took, b.member.released)
		}
	})
}

// TestLanesAreAsked: any goroutine may ask whether the lanes are idle, and tell them to check
// their journals.
func TestLanesAreAsked(t *testing.T) {
	beats(t, func(b *beating) {
		if !b.lanes.idle() {
			b.Error("busy without a job")
		}
		b.workers[2].busy.Store(true)
		if b.lanes.idle() {
			b.Error("idle, though one lane is busy")
		}
		if b.lanes.doubtJournals(); b.workers[1].doubted != 1 || b.workers[2].doubted != 1 {
			b.Error("not all lanes were told to check their journals")
		}
	})
}
