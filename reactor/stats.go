package reactor

import (
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Stats is a snapshot of what an instance has done and holds. Counters count from
// New.
type Stats struct {
	// Claimed jobs, of which Published were acknowledged by the broker (at QoS 0:
	// written to it), Returned to the table unsent by a stop, Retried to be tried
	// again, and Failed given up and recorded as failed jobs. Refused counts the
	// broker's refusals, each of which is one of the latter two in the end.
	Claimed, Published, Returned, Retried, Failed, Refused int64
	// Expired and Missed are those of Failed that were too late: after their expires_at, or later than
	// Config.MaxLateness.
	Expired, Missed int64
	// Quarantined jobs could not be claimed because of their own row; InQuarantine are
	// those that still can't.
	Quarantined, InQuarantine int64
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
	// ClaimSizes are how many jobs claims got, of those that got any; SettleSizes how many batches were
	// recorded by one settlement.
	ClaimSizes, SettleSizes Sizes
	// Early counts messages that were handed to a connection before their time, on the database's
	// clock. It is checked at each hand-off, and must stay 0; a clock of the database that is set back
	// just then counts, too.
	Early int64
	// Lateness of jobs when they were handed to the lane, against fire_at on the
	// database's clock; Accepted the same, when the broker had accepted them.
	Lateness, Accepted Timing
	// OldestUnclaimed is the age of the oldest due job in this instance that is not claimed; 0 if none is
	// due. NextDue is the time until the next job in memory is due, or until before that; 0 if one is due,
	// negative if there is none.
	OldestUnclaimed, NextDue time.Duration
	// OldestDue is the age of the oldest due job in this instance that the broker has not
	// accepted; 0 if none is due.
	OldestDue time.Duration
	// The time since the last success of each; negative: there was none yet. The last claim
	// that got jobs, the last settlement and the last accepted message may be long ago because
	// there was nothing to do.
	LastBeat, LastClock, LastLoad, LastClaim, LastSettle, LastAccepted time.Duration
	// Stalls are the parts whose goroutines do not go on; see Reactor.Stalls.
	Stalls []Stall `json:",omitempty"`

	// Pending jobs wait in the wheel; InFlight ones are claimed and not settled.
	Pending, InFlight int64
	// Shards owned, and LanesUp of the Lanes wanted are connected.
	Shards, Lanes, LanesUp int64
	// Window is how many messages the broker takes unacknowledged over the lanes that are connected, and
	// Unacknowledged how many there are.
	Window, Unacknowledged int64
	// LanesStaging are those of LanesUp over which messages are sent before their time, to be
	// released at it (Config.Stage).
	LanesStaging int64
	// LanesAtStandby are those of LanesUp at a broker that is not the preferred one.
	LanesAtStandby int64
	// Contested lanes are left alone because somebody else uses their MQTT sessions.
	Contested int64
	// FeedUp tells whether new jobs are announced; if not, the sweep finds them. Feed says
	// how, and FeedLosses counts how often that was lost.
	FeedUp     bool
	Feed       driver.FeedState
	FeedLosses int64
	// Loop is the time between two sweeps of the table (Config.LoopFrequency).
	Loop time.Duration
	// Lead is how long before fire_at jobs are claimed.
	Lead time.Duration
	// ClockBound is how far our time may be behind the database's clock.
	ClockBound time.Duration
	// ClockOffset is how far the database's clock is ahead of this host's, or behind if negative. Nothing
	// depends on it.
	ClockOffset time.Duration
}

// counters are the counts that the parts of a Reactor keep.
type counters struct {
	claimedJobs, published, refused, retried, failed, expired, missed, returned, recovered   atomic.Int64
	quarantined, contested                                                                   atomic.Int64
	outcomesUnknown, throttled, early                                                        atomic.Int64
	loads, unknown                                                                           atomic.Int64
	pending, inFlight, shards, lanesUp, lanesStaging, lanesAtStandby, window, unacknowledged atomic.Int64
	firstDue                                                                                 atomic.Int64 // of the jobs that wait: nothingDue minus that time
	ahead                                                                                    ahead
	feedUp                                                                                   atomic.Bool
	feedLosses                                                                               atomic.Int64
	loaded                                                                                   moment // the last read of the table
	claim, settle, ack, lateness, accepted                                                   timing
	claimSizes, settleSizes                                                                  sizes
}

// begin resets what an earlier incarnation held.
func (c *counters) begin() {
	for _, gauge := range []*atomic.Int64{&c.pending, &c.inFlight, &c.shards, &c.lanesUp, &c.lanesStaging, &c.lanesAtStandby, &c.window, &c.unacknowledged, &c.firstDue} {
		gauge.Store(0)
	}
}

// loaderPulse is the pulse of one of the loader's goroutines.
type loaderPulse struct{ *pulse }

// Begin, End, Work and Rest implement load.Pulse.
func (p loaderPulse) Begin() { p.begin() }
func (p loaderPulse) End()   { p.end() }
func (p loaderPulse) Work()  { p.work() }
func (p loaderPulse) Rest()  { p.rest() }

// loadReport counts what the loader reads.
type loadReport struct{ stats *counters }

// ReadAnswered implements load.Report.
func (r loadReport) ReadAnswered() { r.stats.loaded.touch() }

// ReadDelivered implements load.Report.
func (r loadReport) ReadDelivered() { r.stats.loads.Add(1) }
