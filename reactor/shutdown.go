package reactor

import (
	"context"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
)

// An incarnation ends in two stages, in the order in which the data flows.
//
// soft ends first, by the caller's context, when the reads are used up, or because hard has
// ended:
//
//  1. nothing is read or claimed any more: feed, loader, dispatcher and claimers end;
//  2. the shards are released, so that the others begin with them (heartbeat.releaseShards);
//  3. meanwhile, each lane hands back what it has claimed and not sent, waits for the broker's answers,
//     has them settled, disconnects, and is released (laneRunner.run);
//  4. when all lanes have ended, the heartbeat and the settler do (publish).
//
// hard ends when these steps are done, when the grace is over, or with the first error: what is
// under way then stays in the journal, for the lanes' next owners. Last, the incarnation leaves
// its membership, unless the others have ended it.

// leavingMember is what a shutdown needs of driver.Member.
type leavingMember interface {
	Leave(ctx context.Context) error
}

// leavePatience is how long Leave may take.
const leavePatience = 5 * time.Second

// limitGrace ends hard when the grace is over after soft has ended, and soft when hard has.
func (in *incarnation) limitGrace(soft, hard context.Context, stop, abort func()) {
	select {
	case <-soft.Done():
		in.log.Info("stopping", "grace", in.grace)
		wait.Sleep(hard, in.grace)
	case <-hard.Done():
	}
	abort()
	stop()
}

// awaitPublished waits until everything that was handed to the lanes is published and settled,
// or soft ends. If soft ended earlier, lanes would hand back what is claimed and not due yet.
func (in *incarnation) awaitPublished(soft context.Context) {
	for !in.lanes.idle() {
		select {
		case <-soft.Done():
			return
		case <-in.settler.quiet:
		case <-in.lanes.changed:
		}
	}
}

// leave ends the membership. ctx has usually ended already.
func (in *incarnation) leave(ctx context.Context) {
	patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), leavePatience)
	defer cancel()
	if err := in.member.Leave(patient); err != nil {
		in.log.Warn("could not leave the membership; the others will notice", "err", err)
	}
}
