package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/job-publisher/reactor/reactor"
)

// A run measures some or all of these, in this order. Names that others look for are constants.
const (
	claimName     = "claim" // the bare claim: only a rate
	brokerName    = "broker"
	ceilingName   = "ceiling"
	floorName     = "floor"
	floorQoS1Name = "floor QoS 1"
	baselineName  = "baseline"
	reactorName   = "reactor"
)

// step is one of the measurements of a round.
type step struct {
	name string
	run  func(context.Context) (Measurement, error)
}

// steps lists the measurements of a round, reactor last.
func (d *deployment) steps() []step {
	var list []step
	bare := func(name string, kind Kind, delivery reactor.Delivery) {
		list = append(list, step{name, func(ctx context.Context) (Measurement, error) {
			// The floor must know its jobs beforehand.
			return d.trial(ctx, trial{name: name, jobs: d.cfg.Load.Jobs, early: kind == Floor, begin: d.beginBare(kind, delivery)})
		}})
	}
	if d.cfg.Ceiling {
		list = append(list, step{claimName, d.measureClaim})
		bare(brokerName, Broker, d.cfg.Delivery)
		bare(ceilingName, Ceiling, d.cfg.Delivery)
	}
	if d.cfg.Floor {
		if d.cfg.Delivery == reactor.ExactlyOnce {
			bare(floorQoS1Name, Floor, reactor.AtLeastOnce)
		}
		bare(floorName, Floor, d.cfg.Delivery)
	}
	if d.cfg.Baseline != "" {
		list = append(list, step{baselineName, d.measureBaseline})
	}
	for _, v := range d.cfg.variants() {
		list = append(list, step{v.name, func(ctx context.Context) (Measurement, error) {
			return d.trial(ctx, trial{
				name: v.name, jobs: d.cfg.Load.Jobs, snapshot: v.snapshot, beside: d.cfg.Load.hasBeside(), begin: d.beginInstances(v),
			})
		}})
	}
	return list
}

// variant is a way in which a run starts reactor.
type variant struct {
	name      string
	instances int
	flags     []string // beside those of all
	snapshot  bool
}

// variants lists what a run measures of reactor. The first is the one that the others are
// compared with.
func (c Config) variants() []variant {
	list := []variant{{name: reactorName, instances: c.Instances}}
	if len(c.CompareFlags) > 0 {
		list = append(list, variant{name: reactorName + " " + strings.Join(c.CompareFlags, " "), instances: c.Instances, flags: c.CompareFlags})
	}
	if c.HoldSnapshot {
		list = append(list, variant{name: reactorName + ", snapshot", instances: c.Instances, snapshot: true})
	}
	for _, n := range c.MoreInstances {
		list = append(list, variant{name: fmt.Sprint(reactorName, " × ", n), instances: n})
	}
	return list
}

// measureRounds has all steps measured in each round, and adds to the samples.
func (d *deployment) measureRounds(ctx context.Context, steps []step, suffix string, samples samples) error {
	for n := range max(d.cfg.Rounds, 1) {
		steps := slices.Clone(steps)
		if n%2 == 1 {
			slices.Reverse(steps)
		}
		var round []Measurement
		for _, s := range steps {
			m, err := s.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			m.Name = s.name
			round = append(round, m)
		}
		relate(round)
		for _, m := range round {
			if strings.HasPrefix(m.Name, reactorName) {
				m.Name += suffix
			}
			samples.add(m)
		}
	}
	return nil
}

// samples are measurements by their names.
type samples map[string][]Measurement

func (s samples) add(m Measurement) { s[m.Name] = append(s[m.Name], m) }

// take combines the rounds of one measurement; nil if it was not made.
func (s samples) take(name string) *Measurement {
	if len(s[name]) == 0 {
		return nil
	}
	m := combineRounds(s[name])
	return &m
}
