package reactor

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// pulse shows whether one goroutine of an instance goes on. The goroutine says when it works and
// when it waits for something to do. It is stalled if it has worked on one thing for longer than
// anything can take: it waits for a lock that is never released, or for an answer that has no
// deadline. A nil pulse does nothing.
//
// Writing is lock-free, and reading takes no lock that a stalled goroutine may hold.
type pulse struct {
	name string
	// patience is how long the goroutine may work on one thing.
	patience time.Duration
	pulses   *pulses

	// since is when it began to work on this thing; none while it waits. It is one word, so that a
	// goroutine that has just woken up never looks like one that has worked all the time.
	since moment
}

const (
	// patienceInMemory is for goroutines that do no I/O.
	patienceInMemory = 30 * time.Second
	// patienceForAnswers is for goroutines that wait for the database or the broker. It is longer
	// than the deadlines of the statements that one step consists of.
	patienceForAnswers = 2 * time.Minute
)

// begin notes that the goroutine has begun, and works.
func (p *pulse) begin() {
	if p == nil {
		return
	}
	p.work()
	p.pulses.mu.Lock()
	defer p.pulses.mu.Unlock()
	p.pulses.running = append(p.pulses.running, p)
}

// end notes that the goroutine ends.
func (p *pulse) end() {
	if p == nil {
		return
	}
	p.pulses.mu.Lock()
	defer p.pulses.mu.Unlock()
	p.pulses.running = slices.DeleteFunc(p.pulses.running, func(other *pulse) bool { return other == p })
}

// work notes that it begins to work on something, or on the next thing.
func (p *pulse) work() {
	if p != nil {
		p.since.touch()
	}
}

// rest notes that it begins to wait for something to do.
func (p *pulse) rest() {
	if p != nil {
		p.since.clear()
	}
}

// pulses are those of the goroutines that run.
type pulses struct {
	mu      sync.Mutex
	running []*pulse // guarded by mu
}

// of returns the pulse of a part that has not begun yet.
func (ps *pulses) of(name string, patience time.Duration) *pulse {
	return &pulse{name: name, patience: patience, pulses: ps}
}

// Stall is a part of an instance whose goroutine does not go on.
type Stall struct {
	// Part is its name, for example "dispatcher" or "claimer of lane 3".
	Part string
	// For is how long it has not gone on.
	For time.Duration
}

// stalled returns the goroutines that do not go on, in the order of their names.
func (ps *pulses) stalled() []Stall {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var all []Stall
	for _, p := range ps.running {
		if age := p.since.age(); age > p.patience {
			all = append(all, Stall{p.name, age})
		}
	}
	slices.SortFunc(all, func(a, b Stall) int { return cmp.Compare(a.Part, b.Part) })
	return all
}

// Stalls returns the parts of the instance that do not go on, although there is nothing that they
// may wait for. The process has a defect then, and only a restart helps. While the database or the
// broker is away there are none: the parts try again, and go on. It takes no lock that a part
// may hold while it works, and may be called at any time.
func (r *Reactor) Stalls() []Stall { return r.pulses.stalled() }
