package reactor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// Reactor is one instance: it publishes its share of a Source's jobs to a Sink.
type Reactor struct {
	cfg    Config
	source driver.Source
	log    *slog.Logger
	clock  *clock
	lead   *lead
	// largeLead is that of claims of large payloads, which take longer.
	largeLead *lead
	timers    timers
	stats     counters
	// progress is what health goes by.
	progress progress
	// pulses show which goroutines go on. healthLog remembers judgements of all this.
	pulses    pulses
	healthLog healthLog
	recent    recent
	history   history
	// quarantine outlives a membership, as it is about rows of the table.
	quarantine quarantine
	broker     *broker

	running atomic.Bool
}

// New checks the configuration. Nothing runs and nothing connects before Run.
func New(source driver.Source, sink driver.Sink, cfg Config) (*Reactor, error) {
	if source == nil || sink == nil {
		return nil, errors.New("reactor: a source and a sink are needed")
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("reactor: %w", err)
	}
	return &Reactor{
		cfg: cfg, source: source, broker: newBroker(sink), log: cfg.Logger,
		clock: newClock(cfg.Logger), lead: newLead(), largeLead: newLead(), timers: kernelTimers(),
	}, nil
}

// Run publishes jobs until ctx ends, which is a clean stop, or until MaxReads are
// used up; both return nil. It returns an error if the database or the broker cannot
// be used from the start; once it is under way it survives the absence of either.
//
// A stop takes up to Config.Grace, to let the broker acknowledge what is on its way.
// A Reactor runs once.
func (r *Reactor) Run(ctx context.Context) error {
	if r.running.Swap(true) {
		return errors.New("reactor: Run was called twice")
	}
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { r.watchHealth(watching) })
	err := r.serve(ctx)
	stop()
	watch.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped before it had begun
	}
	return err
}

// serve opens the source, and runs one membership after the other.
func (r *Reactor) serve(ctx context.Context) error {
	if err := r.source.Open(ctx); err != nil {
		return err
	}
	defer r.source.Close()
	if err := r.clock.read(ctx, r.source, clockReadings/2); err != nil {
		return err
	}
	r.progress.answered.touch()
	r.log.Info("running", "delivery", r.cfg.Delivery.String(), "clock_error", r.clock.bound())
	member, err := r.join(ctx)
	if err != nil {
		return err
	}
	for {
		r.stats.begin()
		err := r.compose(member).run(ctx)
		if !errors.Is(err, driver.ErrDeposed) {
			return err
		}
		r.log.Warn("the membership has ended; joining again", "why", err)
		if member, err = r.joinAgain(ctx); member == nil {
			return err
		}
	}
}

func (r *Reactor) join(ctx context.Context) (driver.Member, error) {
	return r.source.Join(ctx, driver.JoinOptions{Static: r.cfg.share(), Lanes: r.cfg.Lanes})
}

// joinAgain tries until it succeeds or ctx ends: the cause for which the others declared us
// dead may last, and they have ended our database sessions. It gives up where the others are of a version
// that we do not understand.
func (r *Reactor) joinAgain(ctx context.Context) (driver.Member, error) {
	var failures ratelog.Limiter
	var pause wait.Backoff
	for {
		member, err := r.join(ctx)
		if err == nil {
			failures.OK(r.log, "joined again")
			return member, nil
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		if foreign := (*driver.ProtocolError)(nil); errors.As(err, &foreign) {
			return nil, err
		}
		failures.Fail(r.log, slog.LevelWarn, "cannot join again; trying again", "err", err)
		if !pause.Sleep(ctx) {
			return nil, nil
		}
	}
}

// Stats returns a snapshot. It may be called at any time.
func (r *Reactor) Stats() Stats {
	s, c := r.vitals(), &r.stats
	s.ClaimSizes, s.SettleSizes = c.claimSizes.get(), c.settleSizes.get()
	s.Claim, s.Settle, s.Ack, s.Lateness, s.Accepted = c.claim.get(), c.settle.get(), c.ack.get(), c.lateness.get(), c.accepted.get()
	return s
}

// vitals are Stats without the timings, which cost more to read than all else.
func (r *Reactor) vitals() Stats {
	c, p, now := &r.stats, &r.progress, r.clock.Now()
	first := nothingDue - driver.DBTime(c.firstDue.Load()) // as dispatcher.OldestDue
	next := time.Duration(-1)
	if first < nothingDue {
		next = max(0, first.Sub(now))
	}
	return Stats{
		OldestUnclaimed: max(0, now.Sub(first)), NextDue: next, Early: c.early.Load(),
		OldestDue: max(0, now.Sub(p.oldestDue())), Stalls: r.Stalls(),
		LastBeat: p.beaten.age(), LastClock: p.answered.age(), LastLoad: c.loaded.age(), LastClaim: p.claimed.age(), LastSettle: p.settled.age(), LastAccepted: p.accepted.age(),
		Claimed: c.claimedJobs.Load(), Published: c.published.Load(), Refused: c.refused.Load(),
		Failed: c.failed.Load(), Expired: c.expired.Load(), Missed: c.missed.Load(), Retried: c.retried.Load(), Quarantined: c.quarantined.Load(), InQuarantine: int64(r.quarantine.len()), Contested: c.contested.Load(), Returned: c.returned.Load(), Recovered: c.recovered.Load(), OutcomesUnknown: c.outcomesUnknown.Load(), Throttled: c.throttled.Load(),
		Loads: c.loads.Load(), UnknownClaims: c.unknown.Load(),
		Pending: c.pending.Load(), InFlight: c.inFlight.Load(),
		Shards: c.shards.Load(), Lanes: int64(r.cfg.Lanes), LanesUp: c.lanesUp.Load(), LanesStaging: c.lanesStaging.Load(), LanesAtStandby: c.lanesAtStandby.Load(), Window: c.window.Load(), Unacknowledged: c.unacknowledged.Load(),
		FeedUp: c.feedUp.Load(), Feed: r.source.FeedState(), FeedLosses: c.feedLosses.Load(), Loop: r.cfg.LoopFrequency, Lead: r.lead.get(), ClockBound: r.clock.bound(), ClockOffset: time.Until(now.Time()),
	}
}
