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
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// running is a running laneRunner with its fakes. It implements leaseHolder.
type running struct {
	*testing.T
	*laneRunner
	broker  *fakeBroker
	journal *fakeJournal
	settler *settler
	due     chan due
	again   []int64
	held    atomic.Bool
	mu      sync.Mutex
	steps   []string // guarded by mu: in order, of broker, journal and leases
	stop    func()
	abandon func()
	result  error
	done    chan struct{}
}

const runnerClient = "reactor-test-7"

// confirm, release and beatSoon implement leaseHolder.
func (r *running) confirm(ctx context.Context, lease func() driver.Lease) bool {
	r.step("confirm lease")
	return r.held.Load() && lease().Lane == 7 && ctx.Err() == nil
}
func (r *running) release(context.Context, driver.Lease) { r.step("release") }
func (r *running) beatSoon()                             { r.step("beat soon") }

func (r *running) step(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, s)
}

// since returns the steps since the last call.
func (r *running) since() []string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	steps := r.steps
	r.steps = nil
	return steps
}

func (r *running) went(what string, want ...string) {
	r.Helper()
	if got := r.since(); !slices.Equal(got, want) {
		r.Errorf("%s: %q, want %q", what, got, want)
	}
}

// loggedJournal notes its calls among the steps.
type loggedJournal struct {
	*fakeJournal
	step func(string)
}

func (j loggedJournal) Recover(ctx context.Context, lease driver.Lease) ([]driver.Batch, error) {
	j.step("recover")
	return j.fakeJournal.Recover(ctx, lease)
}

func (j loggedJournal) Reopen(ctx context.Context, lease driver.Lease, round int64, mark string) error {
	j.step("reopen")
	return j.fakeJournal.Reopen(ctx, lease, round, mark)
}

func (j loggedJournal) Settle(ctx context.Context, s []driver.Settlement) ([]driver.Receipt, error) {
	j.step("settle")
	return j.fakeJournal.Settle(ctx, s)
}

// runs runs a test of a runner. before is called before the runner begins.
func runs(t *testing.T, before func(r *running), test func(r *running)) {
	synctest.Test(t, func(t *testing.T) {
		r := &running{
			T: t, broker: newFakeBroker(), journal: &fakeJournal{}, due: make(chan due),
			done: make(chan struct{}),
		}
		r.held.Store(true)
		r.broker.note = r.step
		journal := loggedJournal{r.journal, r.step}
		c, stats, p := testClock(), &counters{}, &progress{}
		r.settler = newSettler(journal, newTurns(journal, nil, discard()), discard(), stats, p, newLead())
		l := &lane{
			lead:     newLead(),
			clientID: runnerClient, log: discard(), stats: stats, progress: p, leased: func() bool { return true }, clock: c,
			settle: func(l *lane, f *handoff.Batch, within time.Duration) { r.settler.add(l, f, within) }, hurry: r.settler.hurry,
			capacity: wait.NewSignal(), recorded: wait.NewSignal(), lease: driver.Lease{Lane: 7, ClientID: runnerClient}, machine: newMachine(Config{}),
		}
		pad := &launchpad{lane: l, clock: c, lateness: &timing{}, news: wait.NewSignal()}
		r.laneRunner = &laneRunner{
			lane: l, pad: pad, clientID: runnerClient, broker: newBroker(r.broker), journal: journal, leases: r, settler: r.settler,
			stages: p, newAlarm: newTimerWaker, clock: c, log: discard(), stats: stats, checkNow: wait.NewSignal(),
			claimer: &claimer{
				lane: l, capacity: l.capacity, journal: journal, clock: c, lead: newLead(), largeLead: newLead(), log: discard(), stats: stats, progress: p,
				traffic: &traffic{}, urgent: r.due, finished: make(chan finished, 100), owe: func(int) {}, turns: newTurns(journal, nil, discard()), again: func(ids []int64, _ driver.DBTime) { r.again = append(r.again, ids...) },
				admit: func(b driver.Batch) *handoff.Batch {
					admitted := l.admit(b)
					pad.put(admitted, 0, b.Jobs)
					return admitted
				},
				rows: 100, quarantine: &quarantine{},
			},
		}
		r.journal.claim = func(_ context.Context, req driver.ClaimRequest) (driver.Batch, error) {
			b := claimAll(req)
			for i := range b.Jobs {
				b.Jobs[i].FireAt = c.Now().Add(time.Duration(b.Jobs[i].ID) * time.Second) // the id is the due time in seconds
			}
			return b, nil
		}
		if before != nil {
			before(r)
		}
		soft, stop := context.WithCancel(t.Context())
		hard, abandon := context.WithCancel(t.Context())
		settling, stopSettling := context.WithCancel(t.Context())
		r.stop, r.abandon = stop, abandon
		settled := make(chan struct{})
		go func() {
			defer close(settled)
			r.settler.run(settling)
		}()
		go func() {
			defer close(r.done)
			r.result = r.run(soft, hard)
		}()
		synctest.Wait()
		test(r)
		stop()
		abandon()
		<-r.done
		stopSettling()
		<-settled
		for _, s := range r.broker.open {
			s.end(nil)
		}
	})
}

// begins are the first steps of a lane if the broker has no session of it.
var begins = []string{"connect", "check identity", "confirm lease", "recover", "reopen", "leave mark"}

// TestBegin: the lease is confirmed only after the connection is made, as the broker closes the
// last owner's connection then. The journal is read only after that, as it is complete only
// then. The first message is sent only when all is recovered.
func TestBegin(t *testing.T) {
	runs(t, nil, func(r *running) {
		r.went("at first", begins...)
		r.due <- due{ids: []int64{0}}
		time.Sleep(time.Second)
		synctest.Wait()
		r.went("a job", "settle", "settle")
		if r.broker.got("t") != 1 || !r.idle() {
			r.Errorf("received %d, idle: %v", r.broker.got("t"), r.idle())
		}
	})
}

// TestRecovers: what the last owner left is sent again in the session that the broker still
// has, and no other session is begun.
func TestRecovers(t *testing.T) {
	runs(t, func(r *running) {
		r.broker.marks[runnerClient] = "mark"
		r.lane.lease.Mark = "mark"
		r.journal.recover = func(driver.Lease) ([]driver.Batch, error) {
			return []driver.Batch{{ID: 1, QoS: 2, FirstSlot: 5, Reach: 128, Jobs: []driver.Job{{ID: 9, Topic: "left"}}}}, nil
		}
	}, func(r *running) {
		time.Sleep(time.Second)
		synctest.Wait()
		r.went("recovery", "connect", "check identity", "confirm lease", "recover", "settle", "settle")
		if sent := r.broker.sent(runnerClient); len(sent) != 1 || !sent[0].Dup || sent[0].Slot != 5 {
			r.Errorf("sent %+v", sent)
		}
	})
}

// TestLostSessionFailsBeforeItsMark: messages that fail because the broker has lost its session
// are settled before the new session is marked, as whoever finds the mark sends what the
// journal lists.
func TestLostSessionFailsBeforeItsMark(t *testing.T) {
	runs(t, func(r *running) {
		r.lane.machine = newMachine(Config{OnSessionLoss: Fail})
		r.lane.lease.Mark = "lost"
		r.journal.recover = func(driver.Lease) ([]driver.Batch, error) {
			return []driver.Batch{{ID: 1, QoS: 2, FirstSlot: 5, Reach: 128, Jobs: []driver.Job{{ID: 9, Topic: "left"}}}}, nil
		}
	}, func(r *running) {
		time.Sleep(time.Second)
		r.went("recovery", "connect", "check identity", "confirm lease", "recover", "reopen", "settle", "leave mark")
		if s := r.broker.open[runnerClient]; len(s.sent) != 0 || !r.idle() {
			r.Errorf("sent %+v", s.sent)
		}
	})
}

// TestLostLaneSaysNothingMore: a lane that was lost hands no job back, and no batch of it is
// settled after its runner has ended, as its next owner may be this instance again.
func TestLostLaneSaysNothingMore(t *testing.T) {
	runs(t, nil, func(r *running) {
		r.due <- due{ids: []int64{0, 3600}} // the second one is due in an hour
		time.Sleep(time.Second)
		r.since()
		r.lane.settled(driver.Settlement{}, new(handoff.Batch), false)
		<-r.done
		time.Sleep(time.Second)
		r.went("lost", "abort")
		if !errors.Is(r.result, driver.ErrLeaseLost) || r.stats.returned.Load() != 0 {
			r.Errorf("it ended with %v, returned %d", r.result, r.stats.returned.Load())
		}
	})
}

// TestFirstConnection: if the first connection fails, the whole instance ends, unless the
// broker had accepted one before.
func TestFirstConnection(t *testing.T) {
	runs(t, func(r *running) { r.broker.away = true }, func(r *running) {
		<-r.done
		if fatal := (*fatalError)(nil); !errors.As(r.result, &fatal) || !errors.Is(r.result, errAway) {
			r.Errorf("it ended with %v", r.result)
		}
	})
	runs(t, func(r *running) {
		r.laneRunner.broker.hasAccepted()
		r.broker.away = true
	}, func(r *running) {
		time.Sleep(time.Minute)
		synctest.Wait()
		r.broker.change(func(b *fakeBroker) { b.away = false })
		time.Sleep(3 * time.Second)
		synctest.Wait()
		steps := r.since()
		if !slices.Equal(steps[len(steps)-len(begins):], begins) || len(steps) < 20 {
			r.Errorf("steps in the end: %q", steps)
		}
	})
}

// TestLeaseNotConfirmed: the connection is closed, and the journal is not touched.
func TestLeaseNotConfirmed(t *testing.T) {
	runs(t, func(r *running) { r.held.Store(false) }, func(r *running) {
		<-r.done
		r.went("another's lane", "connect", "check identity", "confirm lease", "disconnect")
		if !errors.Is(r.result, driver.ErrLeaseLost) {
			r.Errorf("it ended with %v", r.result)
		}
	})
}

// TestReconnects: after a lost connection the lease is confirmed twice: before connecting, as
// to connect would take the session back from a new owner, and after it.
func TestReconnects(t *testing.T) {
	runs(t, nil, func(r *running) {
		r.since()
		r.broker.hangUp(runnerClient, errAway)
		time.Sleep(time.Second)
		synctest.Wait()
		r.went("again", "confirm lease", "connect", "confirm lease")
		r.due <- due{ids: []int64{0}}
		time.Sleep(time.Second)
		synctest.Wait()
		if r.broker.got("t") != 1 {
			r.Error("no message is sent any more")
		}
	})
}

// TestReconnectsUnsettled: a lane that reconnects says which broker it was at, and whether what becomes of
// its messages is known only there.
func TestReconnectsUnsettled(t *testing.T) {
	runs(t, func(r *running) { r.broker.address = "one:1883" }, func(r *running) {
		again := func(what string, want bool) {
			r.Helper()
			r.broker.hangUp(runnerClient, errAway)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if opts := r.broker.latestOptions(); opts.Unsettled != want || opts.Broker != "one:1883" || !opts.MayPublish() {
				r.Errorf("%s: %+v", what, opts)
			}
		}
		again("idle", false)
		r.broker.change(func(b *fakeBroker) { b.silent = true })
		r.due <- due{ids: []int64{0}}
		time.Sleep(time.Second)
		again("a message is on its way", true)
	})
}

// TestShortSessionsAtAStandby: a lane whose sessions at a standby end at once is told to leave even so.
func TestShortSessionsAtAStandby(t *testing.T) {
	runs(t, nil, func(r *running) {
		synctest.Wait()
		begun := time.Now()
		r.broker.change(func(b *fakeBroker) {
			b.standby = true
			b.onConnect = func(client string) {
				time.AfterFunc(returnPause/10, func() { r.broker.hangUp(client, errors.New("closed at a message")) })
			}
		})
		r.broker.hangUp(runnerClient, errors.New("the first one"))
		select {
		case <-r.done:
			if took := time.Since(begun); took > returnPause {
				t.Errorf("it leaves after %v", took)
			}
		case <-time.After(time.Minute):
			t.Error("it does not leave")
		}
	})
}

// TestStandbyThatCannotBeUsed: a lane that never gets to work at a standby asks as well whether it should leave.
func TestStandbyThatCannotBeUsed(t *testing.T) {
	runs(t, func(r *running) {
		r.laneRunner.broker.hasAccepted()
		r.broker.standby, r.broker.identity = true, errors.New("it tells clients apart by their users")
		r.broker.onLeave = func() { // as if the next connection were made to the preferred one
			r.broker.change(func(b *fakeBroker) { b.standby, b.identity = false, nil })
		}
	}, func(r *running) {
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.stats.lanesUp.Load() != 1 {
			t.Error("it tries the standby for ever")
		}
	})
}

// TestRunnerTakenOver: the lane's next owner takes the session over. The runner ends, and
// neither connects nor releases the lane.
func TestRunnerTakenOver(t *testing.T) {
	runs(t, nil, func(r *running) {
		r.since()
		r.held.Store(false)
		r.broker.hangUp(runnerClient, driver.ErrSessionTakenOver)
		<-r.done
		r.went("taken over", "confirm lease")
		if !errors.Is(r.result, driver.ErrLeaseLost) {
			r.Errorf("it ended with %v", r.result)
		}
	})
}

// TestSharedSession: somebody takes the session over again and again while the lease is ours.
// After some take-overs the lane leaves the session alone, for longer each time, and logs that.
func TestSharedSession(t *testing.T) {
	runs(t, func(r *running) {
		r.broker.onConnect = func(client string) {
			if client == runnerClient {
				time.AfterFunc(time.Second, func() { r.broker.hangUp(client, driver.ErrSessionTakenOver) })
			}
		}
	}, func(r *running) {
		contested := 0
		for range 60 {
			time.Sleep(time.Second)
			synctest.Wait()
			contested += int(r.stats.contested.Load())
		}
		connects := 0
		for _, s := range r.since() {
			if s == "connect" {
				connects++
			}
		}
		if connects > 10 || contested < 10 {
			r.Errorf("%d connections in a minute, %d s of it left alone", connects, contested)
		}
		r.broker.change(func(b *fakeBroker) { b.onConnect = nil })
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if r.stats.contested.Load() != 0 || r.stats.lanesUp.Load() != 1 {
			r.Error("the other side has gone, and the session is still left alone")
		}
	})
}

// TestSessionOfSomebodyElse: whenever the lane connects, somebody else has just begun a session with
// its client id, and left a mark of his own there. The lane never sends in such a session, nor
// marks it: both would find their marks there, and use the same packet identifiers.
func TestSessionOfSomebodyElse(t *testing.T) {
	runs(t, func(r *running) {
		r.broker.onConnect = func(client string) {
			if client == runnerClient {
				r.broker.change(func(b *fakeBroker) { b.marks[client] = "theirs" })
			}
		}
	}, func(r *running) {
		for range 60 {
			time.Sleep(time.Second)
			synctest.Wait()
			if r.stats.lanesUp.Load() != 0 {
				r.Fatal("it uses the session of somebody else")
			}
		}
		r.broker.change(func(b *fakeBroker) { b.onConnect = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.stats.lanesUp.Load() != 1 {
			r.Error("the other side has gone, and the lane is not up")
		}
	})
}

// TestBrokerLostTheSession: the broker comes back without our session. The journal begins a new
// round, a new session is marked, and messages that were on their way are sent again.
func TestBrokerLostTheSession(t *testing.T) {
	runs(t, nil, func(r *running) {
		r.broker.change(func(b *fakeBroker) { b.silent = true })
		r.due <- due{ids: []int64{0}}
		time.Sleep(time.Second)
		synctest.Wait()
		r.since()
		r.broker.change(func(b *fakeBroker) {
			b.silent, b.away = false, true
			clear(b.marks)
		})
		r.broker.hangUp(runnerClient, errAway)
		time.Sleep(time.Second)
		synctest.Wait()
		r.broker.change(func(b *fakeBroker) { b.away = false })
		r.since()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		r.went("a new session", "connect", "confirm lease", "check identity", "reopen", "leave mark", "settle", "settle")
		if r.broker.got("t") != 1 || r.stats.outcomesUnknown.Load() != 1 {
			r.Errorf("received %d, unknown %d", r.broker.got("t"), r.stats.outcomesUnknown.Load())
		}
	})
}

// TestShutDown: jobs that are not sent go back, the answers to the others are awaited and
// settled, then the lane disconnects, and is released.
func TestShutDown(t *testing.T) {
	runs(t, nil, func(r *running) {
		r.broker.change(func(b *fakeBroker) { b.silent = true })
		r.due <- due{ids: []int64{0, 3600}} // one now, one in an hour
		time.Sleep(time.Second)
		synctest.Wait()
		r.since()
		r.stop()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		r.went("stopping, a message is on its way", "settle")
		if s := r.journal.settled[0][0]; s.Kept != 1 || s.Jobs != 2 {
			r.Errorf("handed back: %+v", s)
		}
		slot := r.broker.sent(runnerClient)[0].Slot
		r.broker.change(func(b *fakeBroker) { b.open[runnerClient].answers <- []driver.Ack{{Slot: slot, Step: driver.Received}} })
		<-r.done
		r.went("it is answered", "settle", "settle", "disconnect", "release")
		if r.result != errLaneStopped {
			r.Errorf("it ended with %v", r.result)
		}
	})
}

// TestAbandoned: the lane awaits, settles and releases nothing any more, and what is queued is not sent:
// its next owner sends it.
func TestAbandoned(t *testing.T) {
	runs(t, nil, func(r *running) {
		r.broker.change(func(b *fakeBroker) { b.silent = true })
		r.due <- due{ids: []int64{0}}
		time.Sleep(time.Second)
		synctest.Wait()
		r.since()
		r.abandon()
		<-r.done
		r.went("abandoned", "abort")
		if !errors.Is(r.result, context.Canceled) || !r.idle() {
			r.Errorf("it ended with %v", r.result)
		}
	})
}

// TestNotHeldAnyMore: a settlement finds that the lane has another owner. What is under way
// belongs to that owner.
func TestNotHeldAnyMore(t *testing.T) {
	runs(t, func(r *running) {
		r.journal.settle = func(_ context.Context, s []driver.Settlement) ([]driver.Receipt, error) {
			return make([]driver.Receipt, len(s)), nil
		}
	}, func(r *running) {
		r.since()
		r.due <- due{ids: []int64{0}}
		<-r.done
		r.went("not held", "settle", "abort")
		if !errors.Is(r.result, driver.ErrLeaseLost) {
			r.Errorf("it ended with %v", r.result)
		}
	})
}

// TestJournalDoubted: nothing is claimed while the journal is checked. If it holds, twice, a
// batch that the lane does not know, the runner ends and returns that; otherwise it goes on.
func TestJournalDoubted(t *testing.T) {
	stranger := []driver.Batch{{Token: [16]byte{1}, Jobs: make([]driver.Job, 1)}}
	answers := make(chan []driver.Batch, 10)
	runs(t, func(r *running) {
		r.journal.recover = func(driver.Lease) ([]driver.Batch, error) {
			time.Sleep(time.Second)
			select {
			case batches := <-answers:
				return batches, nil
			default:
				return nil, nil
			}
		}
	}, func(r *running) {
		r.doubtJournal() // before the lane has connected or while it reads the journal, a check changes nothing: the journal is read anyway
		time.Sleep(3 * time.Second)
		synctest.Wait()
		r.since()
		answers <- stranger
		answers <- nil // settled in between
		r.doubtJournal()
		r.due <- due{ids: []int64{0}}
		time.Sleep(1900 * time.Millisecond)
		synctest.Wait()
		if len(r.journal.claims) != 0 || !slices.Equal(r.again, []int64{0}) {
			r.Errorf("%d claims while the journal is in doubt, %v are looked at again", len(r.journal.claims), r.again)
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		r.due <- due{ids: []int64{0}}
		time.Sleep(time.Second)
		synctest.Wait()
		if r.broker.got("t") != 1 {
			r.Error("no job is claimed any more")
		}
		answers <- stranger
		answers <- stranger
		r.since()
		r.doubtJournal()
		if _, _, _, ok := r.lane.room(1); ok {
			r.Error("a claim can be made while the journal is in doubt")
		}
		<-r.done
		r.went("it has changed", "abort") // nothing is read but tokens
		if r.result != errJournalChanged {
			r.Errorf("it ended with %v", r.result)
		}
	})
}

// TestFarAhead: a lane whose recovered jobs are due much later claims nothing, and publishes
// them at their time.
func TestFarAhead(t *testing.T) {
	runs(t, func(r *running) {
		r.broker.marks[runnerClient], r.lane.lease.Mark = "mark", "mark"
		at := r.clock.Now().Add(time.Minute)
		r.journal.recover = func(driver.Lease) ([]driver.Batch, error) {
			return []driver.Batch{{ID: 1, QoS: 2, FirstSlot: 5, Reach: 128, Jobs: []driver.Job{{ID: 9, Topic: "left", FireAt: at}}}}, nil
		}
	}, func(r *running) {
		if !r.holdsFarAhead() || !slices.Contains(r.since(), "beat soon") {
			r.Error("no heartbeat is asked for")
		}
		time.Sleep(59 * time.Second)
		synctest.Wait()
		select {
		case r.due <- due{}:
			r.Error("the lane claims")
		default:
		}
		if r.broker.got("left") != 0 {
			r.Error("published early")
		}
		<-r.done
		if r.broker.got("left") != 1 || r.result != errLaneStopped {
			r.Errorf("received %d, ended with %v", r.broker.got("left"), r.result)
		}
	})
}
