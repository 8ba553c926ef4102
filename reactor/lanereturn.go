package reactor

import (
	"context"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// returnPause is between two questions whether a lane should leave its broker. The Sink limits how often brokers
// are asked because of that, for all lanes together.
const returnPause = time.Second

// lookBack has the Sink ask for a preferred broker where a lane cannot begin to work at a standby. Else it would try
// that one for ever: only lanes that work ask (beginReturning). The next connection is made to whichever it is then.
func lookBack(ctx context.Context, session driver.Session) {
	if session.Limits().Standby {
		session.ShouldLeave(ctx)
	}
}

// beginReturning finds out, beside a lane that works where there are several brokers, whether its broker works as well
// (the Sink ends the session otherwise), and at a standby, when it should return to the broker
// that is preferred. The lane then hands back what it has not sent, waits until the rest is settled,
// and is released: whoever leases it next, usually this instance, connects to the preferred broker with
// an empty journal. So no outcome becomes unknown by a return, as it does when a broker fails.
//
// The caller calls end when the session has ended.
func (r *laneRunner) beginReturning(ctx context.Context, session driver.Session) (end func()) {
	limits, standby := session.Limits(), int64(0)
	if limits.Standby {
		standby = 1
	} else if !limits.OtherBrokers {
		return func() {}
	}
	r.stats.lanesAtStandby.Add(standby)
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	asking.Go(func() {
		for { // at once: a session that ends soon, again and again, leaves as well
			if session.ShouldLeave(ctx) {
				r.leave() // and goes on: the broker may fail while the rest is settled
			}
			if !wait.Sleep(ctx, wait.Jitter(returnPause)) {
				return
			}
		}
	})
	return func() {
		cancel()
		asking.Wait()
		r.stats.lanesAtStandby.Add(-standby)
	}
}
