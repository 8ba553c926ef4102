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
// Who runs until when, and what comes of it when one ends by itself:
//
//	clock, feed         until soft ends; they go on whatever fails
//	loader              until soft ends, or its reads are used up: then drain begins
//	dispatcher          until soft ends, or everything is handed out in drain: then soft ends, as
//	                    soon as everything handed out is published. An error ends the instance
//	heartbeat           until the lanes have ended after soft. Its error ends the membership
//	each lane's runner  while its lease lasts; its end is the heartbeat's to follow up on (lanes.ended)
//	settler             until the lanes have ended
//
// Nothing of these is restarted here: what can fail and be tried again is tried again where it
// fails, with pauses. A lane that was lost begins anew with the next lease. An instance that was
// deposed begins anew with the next membership (Reactor.serve).
func (in *incarnation) run(ctx context.Context) error {
	soft, stop := context.WithCancel(ctx)
	defer stop()
	base, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	group, hard := errgroup.WithContext(base) // the first error of any ends hard
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

// read starts what brings jobs from the table to the lanes.
func (in *incarnation) read(group *errgroup.Group, soft context.Context, stop func()) {
	drain := make(chan struct{})
	group.Go(func() error {
		in.clock.run(soft, in.source, in.timers.watchClock, &in.progress.answered)
		return nil
	})
	group.Go(func() error {
		in.feed.run(soft)
		return nil
	})
	group.Go(func() error {
		if usedUp := in.loader.Run(soft); usedUp {
			in.log.Info("the number of reads is used up; publishing what they found", "reads", in.maxReads)
			close(drain)
		}
		return nil
	})
	group.Go(func() error {
		defer stop()
		err := in.dispatcher.run(soft, drain)
		in.awaitPublished(soft)
		return err
	})
}

// publish starts what brings jobs from the lanes to the broker, and out of the journal.
func (in *incarnation) publish(group *errgroup.Group, soft, hard context.Context, abort func()) {
	settling, stopSettling := context.WithCancel(hard)
	group.Go(func() error {
		in.settler.run(settling)
		return nil
	})
	group.Go(func() error {
		defer stopSettling()
		err := in.heartbeat.run(soft, hard)
		if err != nil {
			abort() // the lanes are not ours any more; they would wait for each other
		}
		in.lanes.wait()
		return err
	})
}
