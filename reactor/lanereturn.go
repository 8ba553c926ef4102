package reactor

import (
	"context"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// returnPause is between two questions whether a lane should return to a preferred broker. The Sink
// limits how often the broker is asked, for all lanes together.
const returnPause = time.Second

// lookBack has the Sink ask for a preferred broker where a lane cannot begin to work at a standby. Else it would try
// that one for ever: only lanes that work ask (beginReturning). The next connection is made to whichever it is then.
func lookBack(ctx context.Context, session driver.Session) {
	if session.Limits().Standby {
		session.ShouldLeave(ctx)
	}
}

// beginReturning finds out, beside a lane that works at a standby, when it should return to the broker
// that is preferred. The lane then hands back what it has not sent, waits until the rest is settled,
// and is released: whoever leases it next, usually this instance, connects to the preferred broker with
// an empty journal. So no outcome becomes unknown by a return, as it does when a broker fails.
//
// The caller calls end when the session has ended.
func (r *laneRunner) beginReturning(ctx context.Context, session driver.Session) (end func()) {
	if !session.Limits().Standby {
		return func() {}
	}
	r.stats.lanesAtStandby.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	asking.Go(func() {
		for !session.ShouldLeave(ctx) { // at once: a session that ends soon, again and again, leaves as well
			if !wait.Sleep(ctx, wait.Jitter(returnPause)) {
				return
			}
		}
		r.leave()
	})
	return func() {
		cancel()
		asking.Wait()
		r.stats.lanesAtStandby.Add(-1)
	}
}
