package reactor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/load"
)

// incarnation is one membership of an instance, from Join to Leave. An instance that
// the others gave up for dead loses everything it holds, and begins anew with another.
//
// It ends in two stages. soft ends first: nothing is loaded or claimed any more, the
// shards are released, what is claimed and not sent goes back to the table, what is
// on the wire is awaited. When that is done, or the grace is over, hard ends.
type incarnation struct {
	*Reactor
	member   driver.Member
	loader   *load.Loader
	due      chan due
	finished chan []int64
	settler  *settler

	// leaseUntil is the local instant (of clock) until which the leases are ours for
	// certain.
	leaseUntil atomic.Int64
	beatNow    signal

	mu     sync.Mutex
	beats  int64          // guarded by mu: successful ones
	held   map[int32]bool // guarded by mu: lanes in the latest holding
	beaten *sync.Cond     // on mu: beats has grown, or the incarnation ends
	over   bool           // guarded by mu

	runners map[*laneRunner]struct{} // guarded by mu
}

// runIncarnation works until ctx ends, the reads are used up, or the membership ends.
func (r *Reactor) runIncarnation(ctx context.Context, member driver.Member) error {
	in := &incarnation{
		Reactor: r, member: member,
		due: make(chan due), finished: make(chan []int64, r.cfg.Lanes),
		settler: &settler{source: r.source, log: r.log, stats: &r.stats, progress: &r.progress, wake: newSignal(), quiet: newSignal()},
		beatNow: newSignal(), runners: map[*laneRunner]struct{}{},
	}
	in.beaten = sync.NewCond(&in.mu)
	r.stats.begin()
	return in.run(ctx)
}

func (in *incarnation) run(ctx context.Context) error {
	soft, stop := context.WithCancel(ctx)
	defer stop()
	// A failure, or the end of the grace, ends everything.
	hardBase, cancelHard := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelHard()
	group, hard := errgroup.WithContext(hardBase)
	go func() {
		select {
		case <-soft.Done():
			in.log.Info("stopping", "grace", in.cfg.Grace)
			sleep(hard, in.cfg.Grace)
		case <-hard.Done():
		}
		cancelHard()
		stop()
	}()

	loaded := make(chan []driver.Pending)
	drain := make(chan struct{})
	dispatcher := &dispatcher{
		clock: in.clock, lead: in.lead, newAlarm: in.timers.newAlarm, pending: &in.stats.pending,
		loaded: loaded, due: in.due, finished: in.finished,
		rows: in.cfg.claimRows(), capacity: in.cfg.MaxPending,
	}
	in.loader = load.New(load.Config{
		Source: in.source, Clock: in.clock, Memory: dispatcher, Out: loaded, Report: loadReport{&in.stats}, Log: in.log,
		Aside: func(id int64) bool { return in.quarantine.holds(id, time.Now()) },
		Page:  in.cfg.JobsPerRead, Capacity: in.cfg.MaxPending,
		Loop: in.cfg.LoopFrequency, Horizon: in.cfg.Horizon, MaxReads: in.cfg.MaxReads,
	})
	dispatcher.loader = in.loader
	in.progress.enter(dispatcher)
	defer in.progress.leave(dispatcher)

	// Reading and waiting: until soft ends, or nothing is left to read.
	group.Go(func() error { in.clock.run(soft, in.source, in.timers.watchClock, &in.progress.answered); return nil })
	group.Go(func() error { in.follow(soft); return nil })
	group.Go(func() error {
		if in.loader.Run(soft) {
			in.log.Info("the number of reads is used up; publishing what they found", "reads", in.cfg.MaxReads)
			close(drain)
		}
		return nil
	})
	group.Go(func() error {
		defer stop()
		err := dispatcher.run(soft, drain)
		// Either soft has ended, or everything that was loaded has been claimed. What is
		// claimed gets the time to fall due: winding up would hand it back.
		for in.stats.inFlight.Load() > 0 && soft.Err() == nil {
			select {
			case <-soft.Done():
			case <-in.settler.quiet:
			}
		}
		return err
	})
	// Publishing: until the lanes are wound up. They need the settler and the leases.
	var publishing sync.WaitGroup
	settling, stopSettling := context.WithCancel(hard)
	group.Go(func() error { in.settler.run(settling); return nil })
	group.Go(func() error {
		defer stopSettling()
		err := in.beat(soft, hard, group, &publishing)
		if err != nil {
			cancelHard() // the lanes are not ours any more; they would wait for each other
		}
		publishing.Wait()
		return err
	})
	err := group.Wait()
	cancelHard()
	if errors.Is(err, driver.ErrDeposed) {
		return err
	}
	leaveCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if leaveErr := in.member.Leave(leaveCtx); leaveErr != nil {
		in.log.Warn("could not leave; the others will notice", "err", leaveErr)
	}
	return err
}

// follow passes the feed's hints on, and keeps the feed alive.
func (in *incarnation) follow(ctx context.Context) {
	var failures ratelog.Limiter
	var pause backoff
	others := hearsay{beatNow: in.beatNow}
	for {
		err := in.source.Listen(ctx, func(h driver.Hint) {
			switch h.Kind {
			case driver.HintMembership:
				others.heard()
				return
			case driver.HintConnected:
				in.stats.feedUp.Store(true)
				pause.reset()
				failures.OK(in.log, "the feed of new jobs works again")
				in.doubtJournals()
				// What became of the shards and lanes meanwhile was told to nobody.
				in.beatNow.set()
			}
			in.loader.Hint(h)
		})
		stood := in.stats.feedUp.Swap(false)
		in.loader.FeedLost()
		if ctx.Err() != nil {
			return
		}
		if stood {
			in.stats.feedLosses.Add(1)
		}
		failures.Fail(in.log, slog.LevelWarn, "lost the feed of new jobs; sweeping until it is back", "err", err)
		if !pause.sleep(ctx) {
			return
		}
	}
}
