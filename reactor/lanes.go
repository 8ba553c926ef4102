package reactor

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/wait"
)

// lanes are the lanes that the instance leases, and their runners.
//
// The heartbeat starts runners and abandons them, by what it is told that we hold (hold). A
// runner that ends says why over ends; the heartbeat takes that, and ended follows up on it.
// So one goroutine decides about runners, and no end is overlooked.
type lanes struct {
	log     *slog.Logger
	wanted  int // how many are to claim; the others that we hold are recovered and released
	start   func(lease driver.Lease, claims bool) laneWorker
	release func(ctx context.Context, lease driver.Lease)

	ends    chan laneEnd
	changed wait.Signal // set when a runner has ended: what the lanes hold may be less
	runners sync.WaitGroup

	// Owned by the goroutine of the heartbeat.
	claiming int           // of running
	alive    int           // runners whose end was not taken from ends, abandoned ones included
	leaving  map[int32]int // by lane: abandoned runners among those

	mu      sync.Mutex
	running map[int32]*runningLane // guarded by mu: written by the heartbeat alone
}

// laneWorker is what lanes need of a lane's runner.
type laneWorker interface {
	// run works the lane until it is shut down (soft) or given up at once (hard), and returns
	// why it has ended: see errLaneStopped.
	run(soft, hard context.Context) error
	lease() driver.Lease
	// holdsFarAhead reports whether it does not claim because of what it has recovered.
	holdsFarAhead() bool
	// idle reports whether nothing is left to be settled.
	idle() bool
	// resume sends again after the lease was in doubt.
	resume()
	// doubtJournal has it hold its journal against what it knows.
	doubtJournal()
}

// runningLane is a lane with its runner.
type runningLane struct {
	worker  laneWorker
	claims  bool
	abandon context.CancelFunc
}

// laneEnd says that a runner has ended, and why.
type laneEnd struct {
	lane *runningLane
	why  error
}

func newLanes(log *slog.Logger, wanted int, start func(driver.Lease, bool) laneWorker, release func(context.Context, driver.Lease)) *lanes {
	return &lanes{
		log: log, wanted: wanted, start: start, release: release,
		ends: make(chan laneEnd), changed: wait.NewSignal(), running: map[int32]*runningLane{}, leaving: map[int32]int{},
	}
}

// want is how many lanes to ask for: those that are to claim, and those that hold recovered jobs
// and do not, among them some that were to. Those do not count as claiming from then on, so
// that the instance gets others in their place.
func (l *lanes) want() int {
	n := l.wanted
	for _, lane := range l.running {
		if !lane.worker.holdsFarAhead() {
			continue
		}
		n++
		if lane.claims {
			lane.claims = false
			l.claiming--
		}
	}
	return n
}

// hold runs the lanes that we did not have, unless soft has ended, and abandons those that are
// no longer ours. A lane that is ours again is not run before its last runner has ended: to the
// journal both are the same owner.
func (l *lanes) hold(soft, hard context.Context, leased []driver.Lease) {
	held := map[int32]bool{}
	for _, lease := range leased {
		held[lease.Lane] = true
		if l.running[lease.Lane] == nil && l.leaving[lease.Lane] == 0 && soft.Err() == nil {
			l.run(soft, hard, lease)
		}
	}
	for number, lane := range l.running {
		if !held[number] {
			lane.abandon()
			l.remove(number)
			l.leaving[number]++
		}
	}
}

// run starts a runner.
func (l *lanes) run(soft, hard context.Context, lease driver.Lease) {
	claims := l.claiming < l.wanted
	held, abandon := context.WithCancel(hard)
	lane := &runningLane{l.start(lease, claims), claims, abandon}
	if claims {
		l.claiming++
	}
	l.alive++
	l.mu.Lock()
	l.running[lease.Lane] = lane
	l.mu.Unlock()
	l.runners.Go(func() {
		defer abandon()
		why := lane.worker.run(soft, held)
		l.changed.Set()
		select {
		case l.ends <- laneEnd{lane, why}:
		case <-hard.Done(): // nobody listens any more
		}
	})
}

// ended follows up on the end of a runner; the heartbeat calls it. It reports whether a lane is to
// be run anew, or by somebody else, and returns an error that the whole instance is to end with.
//
// A runner that we did not tell to end has lost its lease, as far as it could tell: to another
// instance, as the next heartbeat will say, or to a failover that brought back an older state of
// the lane's row or of the journal. Then the lane is still ours, and nobody works it: we give it
// back, and whoever adopts it begins with a lease of its own.
func (l *lanes) ended(ctx context.Context, end laneEnd, stopping bool) (lost bool, err error) {
	l.alive--
	if fatal := (*fatalError)(nil); errors.As(end.why, &fatal) {
		return false, fatal.err
	}
	lease := end.lane.worker.lease()
	if l.running[lease.Lane] != end.lane {
		if l.leaving[lease.Lane]--; l.leaving[lease.Lane] == 0 {
			delete(l.leaving, lease.Lane)
		}
		return true, nil // it was abandoned, and the lane may be ours again
	}
	l.remove(lease.Lane)
	if stopping || errors.Is(end.why, errLaneStopped) {
		return !stopping, nil // it has released the lane, or Leave will
	}
	if end.lane.claims && ctx.Err() == nil {
		l.log.Warn("a lane has ended, its lease or its journal is not what it was; taking it anew", "lane", lease.Lane, "err", end.why)
	}
	l.release(ctx, lease)
	return true, nil
}

func (l *lanes) remove(number int32) {
	if l.running[number].claims {
		l.claiming--
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.running, number)
}

// resume has all lanes send again after the leases were in doubt.
func (l *lanes) resume() {
	for _, lane := range l.running {
		lane.worker.resume()
	}
}

// doubtJournals has all lanes look at their journals: the database may be another one than
// before. It may be called by anyone.
func (l *lanes) doubtJournals() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lane := range l.running {
		lane.worker.doubtJournal()
	}
}

// idle reports whether no lane has anything left to be settled. It may be called by anyone.
func (l *lanes) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lane := range l.running {
		if !lane.worker.idle() {
			return false
		}
	}
	return true
}

// wait returns when all runners have ended.
func (l *lanes) wait() { l.runners.Wait() }
