package reactor

import (
	"sync/atomic"
	"time"
)

// Stats is a snapshot of what an instance has done and holds. Counters count from
// New.
type Stats struct {
	// Claimed jobs, of which Published were acknowledged by the broker (at QoS 0:
	// written to it), Refused by it (and tried again, or failed), Failed recorded
	// as failed or to be tried again, and Returned to the table unsent by a stop.
	Claimed, Published, Refused, Failed, Returned int64
	// Throttled counts messages that the broker was over quota for: sent again, slower.
	Throttled int64
	// Recovered jobs were left unsettled by earlier owners of our lanes.
	Recovered int64
	// OutcomesUnknown counts messages that were on their way at QoS 2 when the broker
	// lost its session state: published again, or failed (Config.OnSessionLoss).
	OutcomesUnknown int64
	// Loads of the table, and claims whose outcome had to be asked for.
	Loads, UnknownClaims int64
	// Claim and Settle are how long claims and settlements took, Ack the time from
	// PUBLISH to the broker's answer.
	Claim, Settle, Ack Timing
	// Lateness of jobs when they were handed to the lane, against fire_at on the
	// database's clock.
	Lateness Timing

	// Pending jobs wait in the wheel; InFlight ones are claimed and not settled.
	Pending, InFlight int64
	// Shards owned, and LanesUp of the Lanes wanted are connected.
	Shards, Lanes, LanesUp int64
	// FeedUp tells whether new jobs are announced; if not, the sweep finds them.
	FeedUp bool
	// Lead is how long before fire_at jobs are claimed.
	Lead time.Duration
	// ClockBound is how exactly the database's clock is known.
	ClockBound time.Duration
}

// counters are what the parts of a Reactor count in.
type counters struct {
	claimedJobs, published, refused, failed, returned, recovered atomic.Int64
	outcomesUnknown, throttled                                   atomic.Int64
	loads, unknown                                               atomic.Int64
	pending, inFlight, shards, lanesUp                           atomic.Int64
	feedUp                                                       atomic.Bool
	claim, settle, ack, lateness                                 timing
}

// begin resets what an earlier incarnation held.
func (c *counters) begin() {
	for _, gauge := range []*atomic.Int64{&c.pending, &c.inFlight, &c.shards, &c.lanesUp} {
		gauge.Store(0)
	}
}
