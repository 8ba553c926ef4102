package reactor

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// Config says how an instance works. The zero value of every field is its default.
type Config struct {
	// Delivery is the promise made for each job. Defaults to ExactlyOnce.
	Delivery Delivery
	// OnSessionLoss says what becomes of messages that were on their way at QoS 2 when
	// the broker lost its session state. Defaults to Republish.
	OnSessionLoss SessionLossPolicy

	// Stage says whether messages are sent to the broker before their time, and released at it;
	// only for ExactlyOnce. Defaults to StageAuto: where the broker is found to be of that kind.
	Stage Staging
	// MaxLateness is how late a job may be published: what an outage has made later than that is
	// recorded as missed, and not published. It does not concern what has been sent already. At least
	// 1 ms. 0, the default, means that no job is too late. A job's own expires_at holds as well.
	MaxLateness time.Duration
	// CatchUpRate is how many overdue jobs this instance publishes a second at most, so that a long
	// backlog does not flood the subscribers. What falls due meanwhile is not held up. 0, the
	// default, means as many as possible.
	CatchUpRate int
	// JobsPerRead bounds the rows of one read of the table, and the jobs of one
	// claim (which takes at most 512). Smaller reads use less memory, larger ones
	// fewer statements. At most 1,048,576. Defaults to 4096.
	JobsPerRead int
	// LoopFrequency is how often the table is swept. New jobs are announced by the database;
	// the sweep is the safety net for what the announcement missed, and bounds how late that
	// can be (internal/load/sweep.go says when a late job waits for more than one loop). 1 ms
	// to 24 h. Defaults to 2 s.
	LoopFrequency time.Duration
	// ConsumerCount and ConsumerIndex give this instance a fixed share: of
	// ConsumerCount consumers, the one with this index, counted from 0. Each index
	// must be running somewhere, or its share waits. A count of 0, the default,
	// shares the table among whichever instances are alive.
	ConsumerCount, ConsumerIndex int
	// MaxReads ends Run after this many reads of the table, empty ones included,
	// when everything they found has been published. A job that cannot be claimed at once, for
	// instance because somebody has locked its row, is waited for. 0, the default, means never.
	MaxReads int

	// Lanes is the number of connections to the broker. One of them is kept free of what is
	// overdue and of large payloads, for what is due now; so a backlog is published over the others. With
	// a single one, what is due now waits for what that has taken before. Defaults to 3.
	Lanes int
	// Horizon is how far ahead jobs are loaded into memory. No longer than the
	// notify horizon in sql/triggers.sql, one minute. Defaults to 30 s.
	Horizon time.Duration
	// MaxPending bounds the jobs in memory that are not claimed yet, about 100 bytes
	// each. Beyond it they wait in the table, those due last. A read is never larger
	// than it, whatever JobsPerRead says. 1024 to 100,000,000. Defaults to 262,144.
	MaxPending int
	// Grace is how long a stop waits for the broker to acknowledge what is on its way, at most
	// 24 h. With NoGrace a stop does not wait: what is under way then is recovered by whoever
	// takes over the lane. Defaults to 10 s.
	Grace time.Duration
	// Tracer makes spans of messages, whose contexts the messages then carry. Defaults to none: what a
	// job's headers say about a trace passes through unchanged.
	Tracer driver.Tracer
	// Logger takes the log. Defaults to one that discards everything.
	Logger *slog.Logger
}

// NoGrace is the Config.Grace of a stop that waits for nothing. It is not 0, as 0 stands for
// the default.
const NoGrace time.Duration = -1

// longest bounds durations, so that the sum of a few does not overflow, and so that the
// database accepts each.
const longest = 24 * time.Hour

// notifyHorizon is the interval in sql/triggers.sql: rows due later are not
// announced, and must lie beyond what has been loaded.
const notifyHorizon = time.Minute

// maxClaim bounds the jobs of one claim: beyond it, larger batches save little and
// cost lateness.
const maxClaim = handoff.MaxClaim

// maxClaimBytes bounds the payload memory of one claim; a single larger job passes.
const maxClaimBytes = 8 << 20

// Defaults returns the Config that the zero Config stands for.
func Defaults() Config { return Config{}.withDefaults() }

// withDefaults is applied once.
func (c Config) withDefaults() Config {
	setDefault(&c.JobsPerRead, 4096)
	setDefault(&c.LoopFrequency, 2*time.Second)
	setDefault(&c.Lanes, 3)
	setDefault(&c.Horizon, 30*time.Second)
	setDefault(&c.MaxPending, 1<<18)
	switch c.Grace {
	case 0:
		c.Grace = 10 * time.Second
	case NoGrace:
		c.Grace = 0
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Delivery > AtMostOnce:
		return &ConfigError{Field: "Delivery", Value: c.Delivery, Problem: "which does not exist"}
	case c.Stage > StageOff:
		return &ConfigError{Field: "Stage", Value: c.Stage, Problem: "which does not exist"}
	case c.OnSessionLoss > Fail:
		return &ConfigError{Field: "OnSessionLoss", Value: c.OnSessionLoss, Problem: "which does not exist"}
	case c.MaxLateness < 0 || c.MaxLateness > 0 && c.MaxLateness < time.Millisecond:
		return &ConfigError{Field: "MaxLateness", Value: c.MaxLateness, Problem: "must be 1ms or more, or 0 for no limit"}
	case c.CatchUpRate < 0:
		return &ConfigError{Field: "CatchUpRate", Value: c.CatchUpRate, Problem: "must not be negative"}
	case c.JobsPerRead < 1 || c.JobsPerRead > 1<<20:
		return &ConfigError{Field: "JobsPerRead", Value: c.JobsPerRead, Problem: "must be 1 to 1048576"}
	case c.LoopFrequency < time.Millisecond || c.LoopFrequency > longest:
		return &ConfigError{Field: "LoopFrequency", Value: c.LoopFrequency, Problem: "must be 1ms to 24h"}
	case c.ConsumerCount < 0 || c.ConsumerCount > driver.Shards:
		return &ConfigError{Field: "ConsumerCount", Value: c.ConsumerCount, Problem: fmt.Sprintf("must be 1 to %d, or 0 for sharing dynamically", driver.Shards)}
	case c.ConsumerCount == 0 && c.ConsumerIndex != 0:
		return &ConfigError{Field: "ConsumerIndex", Value: c.ConsumerIndex, Problem: "and ConsumerCount is not set: set both, or neither for sharing dynamically"}
	case c.ConsumerCount > 0 && (c.ConsumerIndex < 0 || c.ConsumerIndex >= c.ConsumerCount):
		return &ConfigError{Field: "ConsumerIndex", Value: c.ConsumerIndex, Problem: fmt.Sprintf("must be 0 to %d with a ConsumerCount of %d", c.ConsumerCount-1, c.ConsumerCount)}
	case c.MaxReads < 0:
		return &ConfigError{Field: "MaxReads", Value: c.MaxReads, Problem: "must not be negative"}
	case c.Lanes < 1 || c.Lanes > 64:
		return &ConfigError{Field: "Lanes", Value: c.Lanes, Problem: "must be 1 to 64"}
	case c.Horizon < time.Second || c.Horizon > notifyHorizon:
		return &ConfigError{Field: "Horizon", Value: c.Horizon, Problem: fmt.Sprintf("must be 1s to %v", notifyHorizon)}
	case c.MaxPending < 1024 || c.MaxPending > 100_000_000:
		return &ConfigError{Field: "MaxPending", Value: c.MaxPending, Problem: "must be 1024 to 100000000"}
	case c.Grace < 0 || c.Grace > longest:
		return &ConfigError{Field: "Grace", Value: c.Grace, Problem: "must be 0s to 24h"}
	}
	return nil
}

// share is the fixed share of shards, or the empty set.
func (c Config) share() driver.ShardSet {
	if c.ConsumerCount == 0 {
		return 0
	}
	return driver.StaticShards(c.ConsumerCount, c.ConsumerIndex)
}

// claimRows is how many jobs one claim takes at most.
func (c Config) claimRows() int { return min(maxClaim, c.JobsPerRead) }

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
