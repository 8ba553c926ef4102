package handoff

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The model looks at every order of events around the machine of this package, small enough
// to be enumerated: one lane with a few slots and jobs, instances that own it one after the
// other and don't know when they have lost it, a broker by the book [MQTT 5, 4.3.3], and a
// network and a database in which everything takes time. In each state that can be reached
// everybody may die; then a last instance takes over, and what came of each job is compared
// with the promise.
//
// What is atomic here is atomic there: a claim and a take-over lock the same row; a statement
// that settles looks at the owner when it begins, and commits later, whatever has become of
// owner and process meanwhile; the broker takes one packet at a time.

// model is what is explored.
type model struct {
	healed map[string]string // what came of heal, by what it depends on

	qos                    byte
	slots, jobs, instances int
	claim                  int  // jobs of a claim
	reach                  int  // 0: all slots
	apart                  bool // jobs are launched one by one, some time after their claim
	drops                  int  // connections lost, at any moment
	// rollbacks: the broker is killed, and is back with a state from before it had what it
	// has, its sessions included.
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
	// passesOnAtPublish: the broker passes a message on when it stores it, as MQTT allows, and
	// not when it is released.
	passesOnAtPublish bool
	// tells: the broker says so when it does not know what it is to release.
	tells bool
	// trustsOldLease breaks the rule that the caller keeps: the lease is not looked at again
	// after CONNACK.
	trustsOldLease bool
}

// verdict is what came of exploring.
type verdict struct {
	states int
	points map[string]bool // crash points of reactor's package doc that were among them
	broken string          // the promise that can be broken, or nothing
	way    []string        // the shortest way there
}

// explore looks at every state that can be reached.
func (m *model) explore() verdict {
	v := verdict{points: map[string]bool{}}
	m.healed = map[string]string{}
	begin := &world{
		model: m, next: 1, connected: -1, stored: make([]int8, m.slots), jobs: make([]fate, m.jobs+1), in: make([]instance, m.instances),
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

// crashPoints notes which of the points of reactor's package doc the state is, for each job.
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

// TestModelKnowsTheMachine: a field that is new has to be copied by clone, and told apart by
// key if it makes a difference.
func TestModelKnowsTheMachine(t *testing.T) {
	for _, test := range []struct {
		value any
		want  int
	}{
		{Machine{}, 18}, {message{}, 9}, {Batch{}, 15}, {failure{}, 3}, {pace{}, 3}, {poison{}, 6}, {Config{}, 3},
	} {
		if got := reflect.TypeOf(test.value).NumField(); got != test.want {
			t.Errorf("%T has %d fields, not %d: look at clone and key", test.value, got, test.want)
		}
	}
}

// TestModel: whatever the order of events, and wherever everybody dies, each claimed job is
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
				0: {"C1", "C3", "C7", "C8"}, // what is claimed is sent at once
				1: {"C1", "C2", "C3", "C7", "C8"},
				2: {"C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8"},
			}
			for _, point := range points[m.qos] {
				if !v.points[point] {
					t.Errorf("nobody has died at %s", point)
				}
			}
			t.Logf("%d states", v.states)
		})
	}
}

var models = map[string]*model{
	"a slot used again":                  {qos: 2, slots: 1, jobs: 3, instances: 2, claim: 1, drops: 1},
	"three instances":                    {qos: 2, slots: 1, jobs: 1, instances: 3, claim: 1, drops: 1},
	"two slots":                          {qos: 2, slots: 2, jobs: 2, instances: 2, claim: 1},
	"two jobs a claim":                   {qos: 2, slots: 2, jobs: 2, instances: 2, claim: 2, apart: true},
	"beyond the reach":                   {qos: 2, slots: 3, jobs: 3, instances: 2, claim: 3, reach: 1},
	"a broker that is killed":            {qos: 2, slots: 1, jobs: 2, instances: 2, claim: 1, drops: 1, rollbacks: 1},
	"killed twice":                       {qos: 2, slots: 2, jobs: 2, instances: 1, claim: 1, drops: 1, rollbacks: 2},
	"killed, and it tells":               {qos: 2, slots: 1, jobs: 1, instances: 2, claim: 1, drops: 1, rollbacks: 1, tells: true},
	"a broker that passes on at PUBLISH": {qos: 2, slots: 1, jobs: 2, instances: 2, claim: 1, drops: 1, passesOnAtPublish: true},
	"session lost, republish":            {qos: 2, slots: 1, jobs: 2, instances: 2, claim: 1, drops: 1, losses: 1},
	"session lost, fail":                 {qos: 2, slots: 1, jobs: 2, instances: 2, claim: 1, drops: 1, losses: 1, failLost: true},
	"session lost twice, fail":           {qos: 2, slots: 2, jobs: 2, instances: 1, claim: 1, losses: 2, failLost: true},
	"over quota":                         {qos: 2, slots: 2, jobs: 2, instances: 2, claim: 2, drops: 1, quotas: 1},
	"over quota, session lost, fail":     {qos: 2, slots: 2, jobs: 2, instances: 2, claim: 2, losses: 1, quotas: 1, failLost: true, passesOnAtPublish: true},
	"a clock set back":                   {qos: 2, slots: 2, jobs: 2, instances: 2, claim: 2, drops: 1, timed: true, setBacks: 1},
	"set back, session lost, fail":       {qos: 2, slots: 1, jobs: 1, instances: 2, claim: 1, losses: 1, timed: true, setBacks: 1, failLost: true},
	"set back, session lost":             {qos: 2, slots: 1, jobs: 1, instances: 2, claim: 1, losses: 1, timed: true, setBacks: 1},
	"at least once, set back":            {qos: 1, slots: 2, jobs: 2, instances: 2, claim: 2, timed: true, setBacks: 1},
	"at least once":                      {qos: 1, slots: 2, jobs: 2, instances: 2, claim: 1, drops: 1},
	"at most once":                       {qos: 0, slots: 2, jobs: 2, instances: 2, claim: 1, drops: 1},
}
