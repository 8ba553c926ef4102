package reactor

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
	"github.com/job-publisher/reactor/reactor/internal/load"
)

// incarnation is one membership of an instance, from Join to Leave. An instance that the others
// have declared dead loses everything it holds, and begins again with a new incarnation.
//
// This file lists its parts and wires them; supervise.go starts them and says what happens when
// one of them ends; shutdown.go ends the incarnation.
type incarnation struct {
	log      *slog.Logger
	grace    time.Duration
	source   timeSource
	member   leavingMember
	progress *progress
	timers   timers
	clock    *clock
	// clockPulse is that of clock.run, as the clock itself outlives the incarnation.
	clockPulse *pulse

	feed       *feedFollower
	loader     *load.Loader
	dispatcher *dispatcher
	lanes      *lanes
	settler    *settler
	turns      *turns
	leases     *leases
	heartbeat  *heartbeat
}

// compose wires a membership's stages, in the order in which jobs pass them:
//
//	feed ──hints──► loader ──loaded──► dispatcher ──due──► lanes ──► settler
//	                  ▲ ▲                   │ ▲              │
//	                  │ └─ full, roomy ─────┘ └── finished ──┤
//	                  └─────────── look again ───────────────┘
//
// and the heartbeat, which tells the loader its shards and the lanes their leases. Parts that
// outlive a membership belong to the Reactor: clock, leads, broker, quarantine, statistics.
func (r *Reactor) compose(member driver.Member) *incarnation {
	var (
		loaded  = make(chan load.Read)
		ended   = make(chan finished, r.cfg.Lanes)
		batches = offers{make(chan due), make(chan due), make(chan due)}
		budget  = newBudget(smallBudget, largeBudget)
		traffic traffic
	)
	d := &dispatcher{
		clock: r.clock, lead: r.lead, largeLead: r.largeLead, newAlarm: r.timers.newAlarm, pending: &r.stats.pending, firstDue: &r.stats.firstDue, ahead: &r.stats.ahead,
		loaded: loaded, urgent: batches.urgent, anyone: batches.anyone, bulk: batches.bulk, finished: ended,
		rows: r.cfg.claimRows(), capacity: r.cfg.MaxPending, overdue: overdueAfter(r.cfg.LoopFrequency), budget: budget,
		catchUp: catchUp{rate: r.cfg.CatchUpRate}, pulse: r.pulses.of("dispatcher", patienceInMemory),
	}
	loader := load.New(load.Config{
		Source: r.source, Clock: r.clock, Memory: d, Out: loaded, Report: loadReport{&r.stats}, Log: r.log,
		Pulse:     func(kind string) load.Pulse { return loaderPulse{r.pulses.of("loader ("+kind+")", patienceForAnswers)} },
		Aside:     func(id int64) bool { return r.quarantine.holds(id, time.Now()) },
		Announced: func() bool { return r.source.FeedState().Announces() },
		Page:      r.cfg.JobsPerRead, Capacity: r.cfg.MaxPending,
		Loop: r.cfg.LoopFrequency, Horizon: r.cfg.Horizon, MaxReads: r.cfg.MaxReads,
	})
	d.loader = loader

	turns := newTurns(r.source, loader.TurnOf, r.log)
	turns.pulse = r.pulses.of("turns", patienceForAnswers)
	s := newSettler(r.source, turns, r.log, &r.stats, &r.progress, r.lead)
	s.pulse = r.pulses.of("settler", patienceForAnswers)
	held := newLeases(r.clock, r.log, member)
	start := func(lease driver.Lease, claims bool) laneWorker {
		runner := r.newLaneRunner(lease, held, s, budget)
		if claims {
			runner.claimer = r.newClaimer(runner, batches, &traffic, ended, loader, turns)
		}
		return runner
	}
	l := newLanes(r.log, r.cfg.Lanes, start, held.release)

	return &incarnation{
		log: r.log, grace: r.cfg.Grace,
		source: r.source, member: member, progress: &r.progress, timers: r.timers, clock: r.clock, clockPulse: r.pulses.of("clock", patienceForAnswers),
		feed:   &feedFollower{feed: r.source, loader: loader, lanes: l, beatNow: held.beatNow, log: r.log, stats: &r.stats},
		loader: loader, dispatcher: d, lanes: l, settler: s, turns: turns, leases: held,
		heartbeat: &heartbeat{
			member: member, leases: held, lanes: l, loader: loader, static: r.cfg.share(),
			clock: r.clock, log: r.log, shards: &r.stats.shards, progress: &r.progress, snapshot: r.snapshot,
			pulse: r.pulses.of("heartbeat", patienceForAnswers),
		},
	}
}

// newLaneRunner returns a lane with its launch pad and its runner. The runner does not claim.
func (r *Reactor) newLaneRunner(lease driver.Lease, held *leases, s *settler, budget *budget) *laneRunner {
	l := &lane{
		clientID: lease.ClientID, delivery: r.cfg.Delivery, log: r.log, stats: &r.stats, progress: &r.progress,
		leased: held.good, clock: r.clock, lead: r.lead, hurry: s.hurry, onLoss: r.cfg.OnSessionLoss,
		settle:   func(l *lane, b *handoff.Batch, within time.Duration) { s.add(l, b, within) },
		capacity: wait.NewSignal(), recorded: wait.NewSignal(), lease: lease, machine: newMachine(r.cfg),
		budget: budget, tracer: r.cfg.Tracer,
	}
	return &laneRunner{
		lane: l, clientID: lease.ClientID, delivery: r.cfg.Delivery, onLoss: r.cfg.OnSessionLoss, stage: r.cfg.Stage,
		pad:    &launchpad{lane: l, clock: r.clock, lateness: &r.stats.lateness, news: wait.NewSignal(), pulse: r.pulses.of(fmt.Sprint("launch pad of lane ", lease.Lane), patienceInMemory)},
		broker: r.broker, journal: r.source, leases: held, settler: s, stages: &r.progress,
		newAlarm: r.timers.newAlarm, clock: r.clock, log: r.log, stats: &r.stats,
		checkNow: wait.NewSignal(), budget: budget,
	}
}

// offers are the channels on which the dispatcher offers batches (traffic).
type offers struct{ urgent, anyone, bulk chan due }

// newClaimer is the claimer of a lane.
func (r *Reactor) newClaimer(runner *laneRunner, batches offers, traffic *traffic, ended chan<- finished, loader *load.Loader, turns *turns) *claimer {
	l, pad := runner.lane, runner.pad
	return &claimer{
		lane: l, capacity: l.capacity, wake: l.capacity.Set,
		admit: func(batch driver.Batch) *handoff.Batch {
			b := l.admit(batch)
			pad.put(b, 0, batch.Jobs)
			return b
		},
		journal: r.source, clock: r.clock, lead: r.lead, largeLead: r.largeLead, log: r.log, stats: &r.stats, progress: &r.progress,
		traffic: traffic, budget: runner.budget, urgent: batches.urgent, anyone: batches.anyone, bulk: batches.bulk,
		finished: ended, owe: loader.Owe, again: loader.LookAgain, turns: turns,
		delivery: r.cfg.Delivery, static: r.cfg.share(), rows: r.cfg.claimRows(),
		quarantine: &r.quarantine, pulse: r.pulses.of(fmt.Sprint("claimer of lane ", l.lease.Lane), patienceForAnswers),
	}
}
