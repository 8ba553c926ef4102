package reactor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/reactor/driver"
)

// beat keeps the membership alive and follows what it gives us: shards go to the
// loader, every leased lane gets a runner. It ends when soft has ended and the lanes
// are wound up.
func (in *incarnation) beat(soft, hard context.Context, group *errgroup.Group, lanes *sync.WaitGroup) error {
	defer in.endBeats()
	var (
		failures ratelog.Limiter
		pause    = backoff{most: time.Second / 2} // late, we would be taken for dead
		running  = map[int32]*runningLane{}
		ours     = 0 // lanes that claim, as opposed to guests
		ended    = make(chan *runningLane)
		wound    = make(chan struct{})
		stopping = soft.Done()
	)
	for {
		in.member.WantLanes(in.cfg.Lanes + parkedLanes(running, &ours))
		begun := in.clock.local()
		holding, err := in.beatOnce(hard)
		switch {
		case err == nil:
			pause.reset()
			in.progress.beaten.touch()
			failures.OK(in.log, "the membership is in order again")
			if soft.Err() == nil {
				in.loader.Own(in.shards(holding))
				in.stats.shards.Store(int64(in.shards(holding).Len()))
			}
			in.startLanes(soft, hard, holding, running, &ours, group, lanes, ended)
			in.endLanes(holding, running, &ours)
			in.renewed(begun, holding, running)
		case errors.Is(err, driver.ErrDeposed):
			return err
		case hard.Err() != nil:
			return nil // the beat was cut off by the end of the grace, or by whatever failed
		default:
			// Our session may be gone, and with it what tells the others that we live.
			in.leaseUntil.Store(0)
			failures.Fail(in.log, slog.LevelWarn, "cannot renew the leases; trying again", "err", err)
			if !pause.sleep(hard) {
				return nil
			}
			continue
		}
		timer := time.NewTimer(jitter(in.member.TTL() / 3))
		select {
		case <-hard.Done():
			timer.Stop()
			return nil
		case <-stopping:
			stopping = nil
			in.releaseShards(hard)
			go func() {
				lanes.Wait()
				close(wound)
			}()
		case <-wound:
			timer.Stop()
			return nil
		case l := <-ended:
			in.laneEnded(hard, l, running, &ours)
		case <-in.beatNow:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// laneEnded follows up on a runner that has ended. One that we did not tell to has lost
// its lease, as far as it could tell: to another instance, as the holding will say, or to a
// failover that brought back an older state of the lane's row or of the journal. Then the
// lane is still ours, and nobody works it: we give it back, and whoever adopts it begins
// with a lease of its own.
func (in *incarnation) laneEnded(ctx context.Context, l *runningLane, running map[int32]*runningLane, ours *int) {
	number := l.leaseNow().Lane
	if running[number] != l {
		return // it was abandoned
	}
	delete(running, number)
	if l.claims {
		*ours--
		if ctx.Err() == nil {
			in.log.Warn("a lane has ended, its lease or its journal is not what it was; taking it anew", "lane", number)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, in.member.TTL())
	defer cancel()
	in.release(ctx, l.lane)
}

func (in *incarnation) beatOnce(ctx context.Context) (driver.Holding, error) {
	// An instance whose heartbeats arrive and whose claims don't must not keep its share.
	if age := in.progress.answered.age(); age > mutePatience*in.member.TTL() {
		in.clock.doubt.Set() // ask at once: after an outage everything waits for this
		return driver.Holding{}, fmt.Errorf("the database has answered nothing but heartbeats for %v; the others may take over", age.Round(time.Second))
	}
	ctx, cancel := context.WithTimeout(ctx, in.member.TTL())
	defer cancel()
	return in.member.Beat(ctx)
}

// mutePatience is for how many times its time to live an instance may get no answer on the
// connections of its claims before it stops renewing its leases.
const mutePatience = 3

func (in *incarnation) shards(h driver.Holding) driver.ShardSet {
	if static := in.cfg.share(); static != 0 {
		return static
	}
	return h.Shards
}

// releaseShards lets the others begin with our share while we wind up.
func (in *incarnation) releaseShards(ctx context.Context) {
	in.loader.Own(0)
	if ctx.Err() != nil {
		return // without a grace: Leave comes next, and does it
	}
	ctx, cancel := context.WithTimeout(ctx, in.member.TTL())
	defer cancel()
	if err := in.member.ReleaseShards(ctx); err != nil && ctx.Err() != context.Canceled {
		in.log.Warn("could not release the shards; the others will notice", "err", err)
	}
}

// runningLane is a lane with its runner; owned by the goroutine that beats.
type runningLane struct {
	*lane
	runner  *laneRunner
	claims  bool
	abandon context.CancelFunc
}

// parkedLanes counts the lanes that wait for recovered jobs and do not claim, those among them
// that were meant to included. They do not count as ours, so that the instance gets others in
// their place.
func parkedLanes(running map[int32]*runningLane, ours *int) int {
	parked := 0
	for _, l := range running {
		if !l.runner.parked.Load() {
			continue
		}
		parked++
		if l.claims {
			l.claims = false
			*ours--
		}
	}
	return parked
}

// startLanes runs the lanes we did not have.
func (in *incarnation) startLanes(soft, hard context.Context, h driver.Holding, running map[int32]*runningLane, ours *int, group *errgroup.Group, lanes *sync.WaitGroup, ended chan<- *runningLane) {
	for _, lease := range h.Leases {
		if running[lease.Lane] != nil || soft.Err() != nil {
			continue
		}
		claims := *ours < in.cfg.Lanes
		runner := in.newLane(lease, claims)
		laneHard, abandon := context.WithCancel(hard)
		l := &runningLane{runner.lane, runner, claims, abandon}
		running[lease.Lane] = l
		if claims {
			*ours++
		}
		lanes.Add(1)
		group.Go(func() error {
			defer lanes.Done()
			defer abandon()
			in.progress.enter(runner.lane)
			defer in.progress.leave(runner.lane)
			if runner.claimer != nil {
				in.progress.enter(runner.claimer)
				defer in.progress.leave(runner.claimer)
			}
			err := runner.run(soft, laneHard)
			if err == nil && soft.Err() == nil {
				select {
				case ended <- l:
				case <-laneHard.Done(): // abandoned: whoever did that knows
				case <-soft.Done():
				}
			}
			return err
		})
	}
}

// endLanes abandons the lanes that are no longer ours.
func (in *incarnation) endLanes(h driver.Holding, running map[int32]*runningLane, ours *int) {
	held := map[int32]bool{}
	for _, lease := range h.Leases {
		held[lease.Lane] = true
	}
	for number, l := range running {
		if held[number] {
			continue
		}
		l.abandon()
		delete(running, number)
		if l.claims {
			*ours--
		}
	}
}

// renewed notes that the leases are ours for another while, counted from before the
// beat was sent.
func (in *incarnation) renewed(begun time.Duration, h driver.Holding, running map[int32]*runningLane) {
	wasLeased := in.leased()
	in.leaseUntil.Store(int64(begun + in.member.TTL()))
	in.mu.Lock()
	in.beats++
	in.held = map[int32]bool{}
	for _, lease := range h.Leases {
		in.held[lease.Lane] = true
	}
	in.mu.Unlock()
	in.beaten.Broadcast()
	if !wasLeased {
		for _, l := range running {
			l.resume()
		}
	}
}

func (in *incarnation) endBeats() {
	in.mu.Lock()
	in.over = true
	in.mu.Unlock()
	in.beaten.Broadcast()
}

// leased reports whether our leases are still good, as far as we know: the latest beat
// succeeded, and no TTL has passed since it began.
func (in *incarnation) leased() bool {
	return int64(in.clock.local()) < in.leaseUntil.Load()
}

// confirmLease waits for a beat that began after the call and reports whether it
// still had the lane.
func (in *incarnation) confirmLease(ctx context.Context, l *lane) bool {
	stop := context.AfterFunc(ctx, func() {
		in.mu.Lock() // or the wake-up could slip in between the check and the wait
		defer in.mu.Unlock()
		in.beaten.Broadcast()
	})
	defer stop()
	lease := l.leaseNow()
	in.mu.Lock()
	defer in.mu.Unlock()
	// The beat under way may have begun before; the one after it has not.
	for enough := in.beats + 2; in.beats < enough && !in.over && ctx.Err() == nil; {
		in.beatNow.set()
		in.beaten.Wait()
	}
	return in.held[lease.Lane] && !in.over && ctx.Err() == nil
}

// release gives a lane back whose journal is empty.
func (in *incarnation) release(ctx context.Context, l *lane) {
	lease := l.leaseNow()
	if err := in.member.ReleaseLane(ctx, lease); err != nil {
		in.log.Warn("could not release a lane; the others will notice", "lane", lease.Lane, "err", err)
	}
}

func (in *incarnation) newLane(lease driver.Lease, claims bool) *laneRunner {
	l := &lane{
		clientID: lease.ClientID, delivery: in.cfg.Delivery, log: in.log, stats: &in.stats, progress: &in.progress,
		leased: in.leased, clock: in.clock, settle: in.settler.add, hurry: in.settler.wake.set, onLoss: in.cfg.OnSessionLoss,
		capacity: newSignal(), lease: lease, head: 1,
	}
	r := &laneRunner{lane: l, incarnation: in, look: newSignal(), pad: &launchpad{lane: l, clock: in.clock, stats: &in.stats, news: newSignal()}}
	if claims {
		r.claimer = &claimer{
			lane: l, pad: r.pad, source: in.source, clock: in.clock, lead: in.lead, log: in.log, stats: &in.stats,
			due: in.due, finished: in.finished, again: in.loader.LookAgain,
			delivery: in.cfg.Delivery, static: in.cfg.share(), rows: in.cfg.claimRows(),
			progress: &in.progress, quarantine: &in.quarantine,
		}
		r.claimer.inHand.Store(int64(nothingDue))
	}
	return r
}
