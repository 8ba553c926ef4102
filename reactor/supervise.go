package reactor

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/reactor/driver"
)

// run works until ctx ends, the reads are used up, or the membership ends. It returns ErrDeposed
// if the others have taken over, and else an error that the instance ends with.
//
// How long each part runs, and what happens when it ends by itself:
//
//	clock, feed         until soft ends; they go on whatever fails
//	loader              until soft ends; when its reads are used up, drain begins, in which it only
//	                    looks again at what a claim did not get
//	dispatcher          until soft ends, or everything is handed out in drain: then soft ends, as
//	                    soon as everything handed out is published. An error ends the instance
//	heartbeat           until the lanes have ended after soft. Its error ends the membership
//	each lane's runner  while its lease lasts; the heartbeat handles its end (lanes.ended)
//	settler, turns      until the lanes have ended
//
// None of these is restarted here: what can be tried again is tried again where it failed, with
// pauses. A lane that was lost begins again with the next lease. An instance that was deposed
// begins again with the next membership (Reactor.serve).
func (in *incarnation) run(ctx context.Context) error {
	soft, stop := context.WithCancel(ctx)
	defer stop()
	base, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	group, hard := errgroup.WithContext(base) // the first error of any part ends hard
	in.progress.enter(in.dispatcher)
	defer in.progress.leave(in.dispatcher)

	go in.limitGrace(soft, hard, stop, abort)
	in.read(group, soft, stop)
	in.publish(group, soft, hard, abort)
	err := group.Wait()
	abort()
	if !errors.Is(err, driver.ErrDeposed) {
		in.leave(ctx)
	}
	return err
}

// read starts the parts that bring jobs from the table to the lanes.
func (in *incarnation) read(group *errgroup.Group, soft context.Context, stop func()) {
	group.Go(func() error {
		in.clock.run(soft, in.source, in.timers.watchClock, &in.progress.answered, in.clockPulse)
		return nil
	})
	group.Go(func() error {
		in.feed.run(soft)
		return nil
	})
	group.Go(func() error {
		in.loader.Run(soft)
		return nil
	})
	group.Go(func() error {
		defer stop()
		err := in.dispatcher.run(soft, in.loader.UsedUp())
		in.awaitPublished(soft)
		return err
	})
}

// publish starts the parts that bring jobs from the lanes to the broker, and out of the
// journal.
func (in *incarnation) publish(group *errgroup.Group, soft, hard context.Context, abort func()) {
	settling, stopSettling := context.WithCancel(hard)
	group.Go(func() error {
		in.settler.run(settling)
		return nil
	})
	group.Go(func() error {
		in.turns.run(settling)
		return nil
	})
	group.Go(func() error {
		defer stopSettling()
		err := in.heartbeat.run(soft, hard)
		if err != nil {
			abort() // the lanes are no longer ours; without abort they would end only after the return that waits for them
		}
		in.lanes.wait()
		return err
	})
}
