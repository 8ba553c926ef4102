package handoff

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The model looks at every order of events around the machine of this package, small enough to
// be enumerated: one lane with a few slots and jobs, instances that own it one after the other
// and don't know when they have lost it, a broker as the standard describes it [MQTT 5, 4.3.3],
// and a network and a database in which everything takes time. In each reachable state all
// instances may die; then a last instance takes over, and the outcome of each job is compared
// with the promise.
//
// The model treats as atomic only what is atomic in production: a claim and a take-over lock
// the same row; a statement that settles reads the owner when it begins, and commits later,
// even if the owner has changed or the process has died meanwhile; the broker processes one
// packet at a time.

// model is the set of parameters and faults that is explored.
type model struct {
	healed map[string]string // results of heal, by the state that they depend on

	qos                    byte
	slots, jobs, instances int
	// mixed: every second job has a lower QoS, which is that of its claim.
	mixed bool
	lower byte
	claim int  // jobs of a claim
	reach int  // 0: all slots
	apart bool // jobs are launched one by one, some time after their claim
	drops int  // connections lost, at any moment
	// rollbacks: how often the broker is killed, and restarts with an older state, which
	// includes its sessions.
	rollbacks int
	// losses: the broker loses the lane's session.
	losses   int
	failLost bool
	// quotas: the broker refuses a message for its quota.
	quotas int
	// timed: the jobs fall due at some moment, and setBacks: the database's clock is set back
	// after that.
	timed    bool
	setBacks int
	// stages: instances learn, at some moment of each connection, whether messages can be staged.
	// upgrades: whenever the broker comes back it passes messages on at PUBLISH from then on.
	stages, upgrades bool
	// passesOnAtPublish: the broker passes a message on when it stores it, as MQTT allows, and
	// not when it is released.
	passesOnAtPublish bool
	// tells: the broker says so when it does not know what it is to release.
	tells bool
	// trustsOldLease breaks the rule that the caller keeps: the lease is not looked at again
	// after CONNACK.
	trustsOldLease bool
}

// qosOf is the QoS of a job.
func (m *model) qosOf(number int8) byte {
	if m.mixed && number%2 == 0 {
		return m.lower
	}
	return m.qos
}

// verdict is the result of exploring.
type verdict struct {
	states int
	points map[string]bool // crash points of reactor's package doc that were reached
	broken string          // the promise that can be broken; empty if none can
	way    []string        // the shortest sequence of steps to that
}

// explore visits every reachable state.
func (m *model) explore() verdict {
	v := verdict{points: map[string]bool{}}
	m.healed = map[string]string{}
	begin := &world{
		model: m, next: 1, connected: -1, atPublish: m.passesOnAtPublish, stored: make([]int8, m.slots), jobs: make([]fate, m.jobs+1), in: make([]instance, m.instances),
	}
	type trace struct {
		from int
		name string
	}
	seen := map[string]struct{}{begin.key(): {}}
	list, traces := []*world{begin}, []trace{{from: -1}}
	for at := 0; at < len(list) && v.broken == ""; at++ {
		w := list[at]
		list[at] = nil
		w.crashPoints(v.points)
		if v.broken = w.judge(); v.broken != "" {
			for i := at; traces[i].from >= 0; i = traces[i].from {
				v.way = append(v.way, traces[i].name)
			}
			slices.Reverse(v.way)
		}
		for _, s := range w.steps() {
			k := s.to.key()
			if _, known := seen[k]; !known {
				seen[k] = struct{}{}
				list = append(list, s.to)
				traces = append(traces, trace{at, s.name})
			}
		}
	}
	v.states = len(list)
	return v
}

// crashPoints notes, for each job, which crash point of reactor's package doc the state is.
func (w *world) crashPoints(points map[string]bool) {
	for number := int8(1); int(number) <= w.model.jobs; number++ {
		at := slices.IndexFunc(w.journal, func(r row) bool { return number >= r.job && number < r.job+r.kept })
		switch {
		case number >= w.next:
			points["C1"] = true
			continue
		case at < 0:
			points["C8"] = true
			continue
		}
		r := w.journal[at]
		for _, in := range w.in {
			if in.m == nil || in.dead {
				continue
			}
			slot := in.m.ring.plus(driver.Slot(r.first), int(number-r.job))
			msg := in.m.at(slot)
			switch recorded := number-r.job < r.concluded; {
			case msg.job.ID != int64(number):
			case msg.state == held || msg.state == queued:
				points["C2"] = true
			case msg.state == sent:
				points["C3"] = true
			case msg.state == received && !recorded:
				points["C4"] = true
			case msg.state == received || msg.state == releasing && msg.releases == 0:
				points["C5"] = true
			case msg.state == releasing:
				points["C6"] = true
			case msg.state == ended:
				points["C7"] = true
			}
		}
	}
}

// TestModelKnowsTheMachine: clone has to copy each new field, and key has to include it if it
// affects the behaviour.
func TestModelKnowsTheMachine(t *testing.T) {
	for _, test := range []struct {
		value any
		want  int
	}{
		{Machine{}, 24}, {message{}, 13}, {Batch{}, 16}, {failure{}, 3}, {pace{}, 3}, {poison{}, 6}, {Config{}, 4},
	} {
		if got := reflect.TypeOf(test.value).NumField(); got != test.want {
			t.Errorf("%T has %d fields, not %d: look at clone and key", test.value, got, test.want)
		}
	}
}

// TestModel: whatever the order of events, and whenever all instances die, each claimed job is
// delivered as often as its QoS promises.
func TestModel(t *testing.T) {
	for name, m := range models {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := m.explore()
			if v.broken != "" {
				t.Fatalf("%s:\n  %s", v.broken, strings.Join(v.way, "\n  "))
			}
			points := map[byte][]string{
				0: {"C1", "C3", "C7", "C8"}, // claimed jobs are sent at once
				1: {"C1", "C2", "C3", "C7", "C8"},
				2: {"C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8"},
			}
			for _, point := range points[m.qos] {
				if !v.points[point] {
					t.Errorf("no state is at the crash point %s", point)
				}
			}
			t.Logf("%d states", v.states)
		})
	}
}

var models = map[string]*model{
	"a slot used again":                            {qos: 2, slots: 1, jobs: 3, instances: 2, claim: 1, drops: 1},
	"three instances":                              {qos: 2, slots: 1, jobs: 1, instances: 3, claim: 1, drops: 1},
	"two slots":                                    {qos: 2, slots: 2, jobs: 2, instances: 2, claim: 1},
	"two jobs a claim":                             {qos: 2, slots: 2, jobs: 2, instances: 2, claim: 2, apart: true},
	"beyond the reach":                             {qos: 2, slots: 3, jobs: 3, instances: 2, claim: 3, reach: 1},
	"a broker that is killed":                      {qos: 2, slots: 1, jobs: 2, instances: 2, claim: 1, drops: 1, rollbacks: 1},
	"killed twice":                                 {qos: 2, slots: 2, jobs: 2, instances: 1, claim: 1, drops: 1, rollbacks: 2},
	"killed, and it tells":                         {qos: 2, slots: 1, jobs: 1, instances: 2, claim: 1, drops: 1, rollbacks: 1, tells: true},
	"a broker that passes on at PUBLISH":           {qos: 2, slots: 1, jobs: 2, instances: 2, claim: 1, drops: 1, passesOnAtPublish: true},
	"session lost, republish":                      {qos: 2, slots: 1, jobs: 2, instances: 2, claim: 1, drops: 1, losses: 1},
	"session lost, fail":                           {qos: 2, slots: 1, jobs: 2, instances: 2, claim: 1, drops: 1, losses: 1, failLost: true},
	"session lost twice, fail":                     {qos: 2, slots: 2, jobs: 2, instances: 1, claim: 1, losses: 2, failLost: true},
	"over quota":                                   {qos: 2, slots: 2, jobs: 2, instances: 2, claim: 2, quotas: 1},
	"over quota, session lost, fail":               {qos: 2, slots: 2, jobs: 2, instances: 2, claim: 2, losses: 1, quotas: 1, failLost: true, passesOnAtPublish: true},
	"a clock set back":                             {qos: 2, slots: 2, jobs: 2, instances: 2, claim: 2, timed: true, setBacks: 1},
	"set back, session lost, fail":                 {qos: 2, slots: 1, jobs: 1, instances: 2, claim: 1, losses: 1, timed: true, setBacks: 1, failLost: true},
	"set back, session lost":                       {qos: 2, slots: 1, jobs: 1, instances: 2, claim: 1, losses: 1, timed: true, setBacks: 1},
	"at least once, set back":                      {qos: 1, slots: 2, jobs: 2, instances: 2, claim: 2, timed: true, setBacks: 1},
	"staged":                                       {qos: 2, slots: 2, jobs: 1, instances: 2, claim: 1, drops: 1, timed: true, stages: true},
	"two staged":                                   {qos: 2, slots: 3, jobs: 2, instances: 1, claim: 2, drops: 1, timed: true, stages: true},
	"staged, set back":                             {qos: 2, slots: 2, jobs: 1, instances: 2, claim: 1, timed: true, setBacks: 1, stages: true},
	"staged, killed":                               {qos: 2, slots: 2, jobs: 1, instances: 2, claim: 1, drops: 1, rollbacks: 1, timed: true, stages: true},
	"staged, killed, upgraded":                     {qos: 2, slots: 2, jobs: 1, instances: 2, claim: 1, drops: 1, rollbacks: 1, timed: true, stages: true, upgrades: true},
	"staged, lost, upgraded":                       {qos: 2, slots: 2, jobs: 1, instances: 2, claim: 1, losses: 1, timed: true, stages: true, upgrades: true},
	"staged, lost, fail":                           {qos: 2, slots: 2, jobs: 1, instances: 2, claim: 1, losses: 1, timed: true, stages: true, failLost: true},
	"lost over a broker that passes on at PUBLISH": {qos: 2, slots: 2, jobs: 1, instances: 2, claim: 1, losses: 1, timed: true, stages: true, passesOnAtPublish: true, failLost: true},
	"staged, over quota":                           {qos: 2, slots: 2, jobs: 1, instances: 2, claim: 1, drops: 1, quotas: 1, timed: true, stages: true},
	"some at least once":                           {qos: 2, mixed: true, lower: 1, slots: 2, jobs: 2, instances: 2, claim: 1, drops: 1},
	"some at most once":                            {qos: 2, mixed: true, slots: 2, jobs: 2, instances: 2, claim: 1, drops: 1},
	"some staged, some at least once":              {qos: 2, mixed: true, lower: 1, slots: 3, jobs: 2, instances: 1, claim: 1, drops: 1, timed: true, stages: true},
	"some at most, some at least once":             {qos: 1, mixed: true, slots: 2, jobs: 2, instances: 2, claim: 1, drops: 1},
	"at least once":                                {qos: 1, slots: 2, jobs: 2, instances: 2, claim: 1, drops: 1},
	"at most once":                                 {qos: 0, slots: 2, jobs: 2, instances: 2, claim: 1, drops: 1},
}
