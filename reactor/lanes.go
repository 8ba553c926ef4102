package reactor

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// lanes are the lanes that the instance leases, and their runners.
//
// The heartbeat starts and abandons runners, according to the lanes that its answer says we
// hold (hold). A runner that ends sends its reason over ends; the heartbeat receives it and
// calls ended. So one goroutine decides about runners, and no end is overlooked.
type lanes struct {
	log     *slog.Logger
	wanted  int // how many lanes are to claim; further lanes that we hold are only recovered and released
	start   func(lease driver.Lease, claims bool) laneWorker
	release func(ctx context.Context, lease driver.Lease)

	ends    chan laneEnd
	changed wait.Signal // set when a runner has ended, so that the lanes may hold less
	runners sync.WaitGroup

	// Owned by the goroutine of the heartbeat.
	claiming int           // how many of running claim
	alive    int           // runners whose end was not received from ends yet, abandoned ones included
	leaving  map[int32]int // abandoned runners among alive, by lane

	mu      sync.Mutex
	running map[int32]*runningLane // guarded by mu: written by the heartbeat alone
}

// laneWorker is what lanes need of a lane's runner.
type laneWorker interface {
	// run works the lane until it is shut down (soft) or given up at once (hard), and returns
	// why it has ended: see errLaneStopped.
	run(soft, hard context.Context) error
	lease() driver.Lease
	// holdsFarAhead reports whether the lane does not claim because of jobs that it has
	// recovered.
	holdsFarAhead() bool
	// idle reports whether nothing is left to be settled.
	idle() bool
	// resume sends again after the lease was in doubt.
	resume()
	// doubtJournal makes the lane compare its journal with its memory.
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

// want is how many lanes to ask for: those that are to claim, plus those that only hold
// recovered jobs. A lane that was to claim, and then holds jobs that are due much later, does
// not count as claiming any more, so that the instance gets another lane in its place.
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

// hold runs the lanes that are new to us, unless soft has ended, and abandons those that are no
// longer ours. A lane that is ours again is not run before its last runner has ended: to the
// journal both runners are the same owner.
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
		case <-hard.Done(): // nobody receives any more
		}
	})
}

// ended handles the end of a runner; the heartbeat calls it. It reports whether the lane is to
// be run again, by us or by somebody else. An error that it returns ends the whole instance.
//
// A runner that we did not tell to end has found its lease lost. Either another instance has
// the lane, and the next heartbeat will say so. Or a failover brought back an older state of
// the lane's row or of the journal: then the lane is still ours, and nobody works it. So we
// give the lane back, and whoever adopts it begins with a new lease.
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
		return true, nil // the runner was abandoned, and the lane may be ours again
	}
	l.remove(lease.Lane)
	if stopping || errors.Is(end.why, errLaneStopped) {
		return !stopping, nil // the runner has released the lane, or Leave will
	}
	if end.lane.claims && ctx.Err() == nil {
		l.log.Warn("a lane has ended because its lease or its journal has changed; it will be leased again", "lane", lease.Lane, "err", end.why)
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

// resume has all lanes go on sending after the leases were in doubt.
func (l *lanes) resume() {
	for _, lane := range l.running {
		lane.worker.resume()
	}
}

// doubtJournals has all lanes check their journals: the database may be another one than
// before. Any goroutine may call it.
func (l *lanes) doubtJournals() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lane := range l.running {
		lane.worker.doubtJournal()
	}
}

// idle reports whether everything of all lanes is settled. Any goroutine may call it.
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
