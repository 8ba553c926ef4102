package main

import (
	"math"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// The names follow the conventions of Prometheus: base units, _total for what only grows. Labels have
// values from small fixed sets: no topic, no job and no client id. docs/monitoring.md explains each
// (TestMetricsAreDocumented).

// metric describes a metric of ours.
func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("reactor_"+name, help, labels, nil)
}

// snapshot is what an instance was like when it was asked.
type snapshot struct {
	reactor.Stats
	health reactor.Health
}

// number is a metric with one value.
type number struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(snapshot) float64 // NaN: it has none at present
}

func counter(name, help string, value func(snapshot) int64) number {
	return number{metric(name, help), prometheus.CounterValue, func(s snapshot) float64 { return float64(value(s)) }}
}

func gauge(name, help string, value func(snapshot) float64) number {
	return number{metric(name, help), prometheus.GaugeValue, value}
}

var numbers = []number{
	// What became of jobs.
	counter("jobs_claimed_total", "Jobs claimed.", func(s snapshot) int64 { return s.Claimed }),
	counter("jobs_launched_total", "Jobs handed to a lane at their time.", func(s snapshot) int64 { return s.Lateness.Count }),
	counter("jobs_published_total", "Jobs acknowledged by the broker.", func(s snapshot) int64 { return s.Published }),
	counter("jobs_early_total", "Messages sent before their time on the database's clock; must stay 0.", func(s snapshot) int64 { return s.Early }),
	counter("jobs_refused_total", "Refusals by the broker; each job is tried again, or given up.", func(s snapshot) int64 { return s.Refused }),
	counter("jobs_retried_total", "Jobs not published and to be tried again.", func(s snapshot) int64 { return s.Retried }),
	counter("jobs_failed_total", "Jobs given up, recorded in reactor.failed_jobs.", func(s snapshot) int64 { return s.Failed }),
	counter("jobs_expired_total", "Jobs that failed because their expires_at had passed.", func(s snapshot) int64 { return s.Expired }),
	counter("jobs_missed_total", "Jobs that failed because they were later than is allowed.", func(s snapshot) int64 { return s.Missed }),
	counter("jobs_quarantined_total", "Jobs that could not be claimed because of their own row.", func(s snapshot) int64 { return s.Quarantined }),
	counter("jobs_returned_total", "Jobs handed back unsent by a stop.", func(s snapshot) int64 { return s.Returned }),
	counter("jobs_recovered_total", "Jobs found unsettled in the journal of a lane.", func(s snapshot) int64 { return s.Recovered }),
	counter("outcomes_unknown_total", "Messages that were in flight when the broker lost its session state.", func(s snapshot) int64 { return s.OutcomesUnknown }),
	counter("throttled_total", "Messages that the broker refused because its quota was exceeded; sent again, more slowly.", func(s snapshot) int64 { return s.Throttled }),

	// What is due, and what waits.
	gauge("oldest_due_seconds", "How long the oldest job in this instance has been due that the broker has not accepted.", func(s snapshot) float64 { return s.OldestDue.Seconds() }),
	gauge("oldest_unclaimed_seconds", "How long the oldest job in this instance has been due that is not claimed.", func(s snapshot) float64 { return s.OldestUnclaimed.Seconds() }),
	gauge("next_due_seconds", "Time until the next job in memory is due, to about a tenth; absent if there is none.", func(s snapshot) float64 { return unlessNegative(s.NextDue.Seconds()) }),
	gauge("jobs_pending", "Jobs waiting in memory for their time.", func(s snapshot) float64 { return float64(s.Pending) }),
	gauge("jobs_in_flight", "Jobs claimed and not settled.", func(s snapshot) float64 { return float64(s.InFlight) }),
	gauge("jobs_in_quarantine", "Jobs that cannot be claimed because of their own row.", func(s snapshot) float64 { return float64(s.InQuarantine) }),
	gauge("lateness_max_seconds", "Largest time from fire_at to the broker's acceptance so far, a minute at most.", func(s snapshot) float64 { return s.Accepted.Max.Seconds() }),
	gauge("launch_lateness_max_seconds", "Largest lateness of a launched job so far, a minute at most.", func(s snapshot) float64 { return s.Lateness.Max.Seconds() }),
	gauge("lead_seconds", "How long before fire_at jobs are claimed.", func(s snapshot) float64 { return s.Lead.Seconds() }),

	// The state of the instance.
	gauge("ready", "1 while due jobs are published, as /readyz says.", func(s snapshot) float64 { return oneIf(s.health.Ready) }),
	gauge("stalled_parts", "Parts of the instance that do not go on, as /healthz says.", func(s snapshot) float64 { return float64(len(s.Stalls)) }),
	gauge("shards", "Shards owned, of 64.", func(s snapshot) float64 { return float64(s.Shards) }),
	gauge("last_beat_seconds", "Time since the last heartbeat that the database answered; absent if there was none.", func(s snapshot) float64 { return unlessNegative(s.LastBeat.Seconds()) }),
	gauge("last_load_seconds", "Time since the last read of the table; absent if there was none.", func(s snapshot) float64 { return unlessNegative(s.LastLoad.Seconds()) }),
	gauge("last_claim_seconds", "Time since the last claim of any jobs; absent if there was none.", func(s snapshot) float64 { return unlessNegative(s.LastClaim.Seconds()) }),
	gauge("last_settlement_seconds", "Time since the last settlement; absent if there was none.", func(s snapshot) float64 { return unlessNegative(s.LastSettle.Seconds()) }),
	gauge("last_accepted_seconds", "Time since the broker last accepted a message; absent if it never did.", func(s snapshot) float64 { return unlessNegative(s.LastAccepted.Seconds()) }),

	// The database, its clock and its feed.
	counter("loads_total", "Reads of the table.", func(s snapshot) int64 { return s.Loads }),
	counter("claims_unknown_total", "Claims with an unknown outcome, which had to be resolved.", func(s snapshot) int64 { return s.UnknownClaims }),
	gauge("clock_error_seconds", "Largest possible error of our estimate of the database's clock.", func(s snapshot) float64 { return s.ClockBound.Seconds() }),
	gauge("clock_offset_seconds", "How far the database's clock is ahead of this host's, on which nothing depends.", func(s snapshot) float64 { return s.ClockOffset.Seconds() }),
	gauge("last_clock_seconds", "Time since the database's clock was last read; absent if it never was.", func(s snapshot) float64 { return unlessNegative(s.LastClock.Seconds()) }),
	gauge("feed_up", "1 while new jobs are announced, 0 while only the sweep finds them.", func(s snapshot) float64 { return oneIf(s.FeedUp) }),
	gauge("feed_lag_bytes", "How much the server keeps of its log for the WAL feed of this instance.", func(s snapshot) float64 { return float64(s.Feed.LagBytes) }),
	gauge("feed_lag_seconds", "Age of the part of the log that the WAL feed reads.", func(s snapshot) float64 { return s.Feed.Lag.Seconds() }),
	counter("database_failovers_total", "How often the database has failed over to a server that was promoted, or moved to another cluster.", func(s snapshot) int64 { return s.Feed.Failovers }),
	counter("feed_losses_total", "How often the feed of new jobs was lost.", func(s snapshot) int64 { return s.FeedLosses }),

	// The broker.
	gauge("lanes", "Connections to the broker that the instance is to have.", func(s snapshot) float64 { return float64(s.Lanes) }),
	gauge("lanes_up", "Connections to the broker that are established.", func(s snapshot) float64 { return float64(s.LanesUp) }),
	gauge("lanes_at_standby", "Connections to a broker that is not the preferred one of several (--mqtt-url).", func(s snapshot) float64 { return float64(s.LanesAtStandby) }),
	gauge("lanes_staging", "Connections to the broker over which messages are sent before their time, to be released at it.", func(s snapshot) float64 { return float64(s.LanesStaging) }),
	gauge("lanes_contested", "Connections to the broker given up because another client uses their sessions.", func(s snapshot) float64 { return float64(s.Contested) }),
	gauge("window_messages", "How many messages the broker takes unacknowledged, over all lanes (Receive Maximum).", func(s snapshot) float64 { return float64(s.Window) }),
	gauge("unacknowledged_messages", "Messages sent that the broker has not acknowledged, of the window.", func(s snapshot) float64 { return float64(s.Unacknowledged) }),
}

// distribution is a histogram of the instance.
type distribution struct {
	desc  *prometheus.Desc
	value func(*prometheus.Desc, reactor.Stats) prometheus.Metric
}

func times(name, help string, of func(reactor.Stats) reactor.Timing) distribution {
	return distribution{metric(name, help), func(d *prometheus.Desc, s reactor.Stats) prometheus.Metric { return timeHistogram(d, of(s)) }}
}

func amounts(name, help string, of func(reactor.Stats) reactor.Sizes) distribution {
	return distribution{metric(name, help), func(d *prometheus.Desc, s reactor.Stats) prometheus.Metric { return sizeHistogram(d, of(s)) }}
}

var distributions = []distribution{
	times("lateness_seconds", "Time from fire_at to the broker's acceptance, of published jobs; each a minute at most.", func(s reactor.Stats) reactor.Timing { return s.Accepted }),
	times("launch_lateness_seconds", "Time from fire_at to the hand-over to a lane, of launched jobs; each a minute at most.", func(s reactor.Stats) reactor.Timing { return s.Lateness }),
	times("ack_seconds", "Time from PUBLISH to the broker's answer.", func(s reactor.Stats) reactor.Timing { return s.Ack }),
	times("claim_seconds", "Durations of claims.", func(s reactor.Stats) reactor.Timing { return s.Claim }),
	times("settle_seconds", "Durations of settlements.", func(s reactor.Stats) reactor.Timing { return s.Settle }),
	amounts("claim_jobs", "Jobs got by a claim, of claims that got any.", func(s reactor.Stats) reactor.Sizes { return s.ClaimSizes }),
	amounts("settle_batches", "Batches recorded by one settlement.", func(s reactor.Stats) reactor.Sizes { return s.SettleSizes }),
}

var (
	feedKind  = metric("feed", "1 for each feed that announces new jobs to this instance.", "kind")
	partState = metric("part_state", "State of what publishing depends on, as in /readyz: 0 ok, 1 degraded, 2 failing.", "part")
)

// collector provides an instance's numbers to Prometheus.
type collector struct{ r instance }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, n := range numbers {
		ch <- n.desc
	}
	for _, d := range distributions {
		ch <- d.desc
	}
	ch <- feedKind
	ch <- partState
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := snapshot{c.r.Stats(), c.r.Health()}
	for _, n := range numbers {
		if value := n.value(s); !math.IsNaN(value) {
			ch <- prometheus.MustNewConstMetric(n.desc, n.kind, value)
		}
	}
	for _, d := range distributions {
		ch <- d.value(d.desc, s.Stats)
	}
	heard := strings.Split(s.Feed.Kind, ",")
	for _, kind := range []pgsource.Feed{pgsource.FeedNotify, pgsource.FeedWAL, pgsource.FeedPoll} {
		ch <- prometheus.MustNewConstMetric(feedKind, prometheus.GaugeValue, oneIf(slices.Contains(heard, kind.String())), kind.String())
	}
	for _, p := range s.health.Parts {
		ch <- prometheus.MustNewConstMetric(partState, prometheus.GaugeValue, float64(p.State), p.Name)
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// unlessNegative returns a time since something, which is negative if that never was.
func unlessNegative(value float64) float64 {
	if value < 0 {
		return math.NaN()
	}
	return value
}
