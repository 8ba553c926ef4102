package reactor

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// progress shows whether an instance does its work: when each kind of step last succeeded, and
// since when jobs are due that are not published.
type progress struct {
	// The last success of: a heartbeat, a reading of the clock (on the connections of the
	// claims), a claim that got jobs, a settlement, and a message that the broker accepted.
	beaten, answered, claimed, settled, accepted moment

	mu     sync.Mutex
	stages map[stage]struct{} // guarded by mu
}

// stage is a place where jobs wait.
type stage interface {
	// oldestDue is the earliest due time of the jobs that are in this stage and not published;
	// nothingDue if there is none. Any goroutine may call it.
	oldestDue() driver.DBTime
}

// nothingDue is later than everything.
const nothingDue driver.DBTime = math.MaxInt64

// enter adds a stage.
func (p *progress) enter(s stage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stages == nil {
		p.stages = map[stage]struct{}{}
	}
	p.stages[s] = struct{}{}
}

// leave removes it.
func (p *progress) leave(s stage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.stages, s)
}

// oldestDue is the earliest of all stages.
func (p *progress) oldestDue() driver.DBTime {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := nothingDue
	for s := range p.stages {
		oldest = min(oldest, s.oldestDue())
	}
	return oldest
}

// moment is when something was last so, in nanoseconds after began. The zero value means never.
type moment struct{ after atomic.Int64 }

// began has the monotonic reading that moments count from.
var began = time.Now()

func (m *moment) touch() { m.after.Store(int64(time.Since(began)) + 1) }

// clear makes it never.
func (m *moment) clear() { m.after.Store(0) }

// age is the time since then; negative if it was never so.
func (m *moment) age() time.Duration {
	after := m.after.Load()
	if after == 0 {
		return -1
	}
	return time.Since(began) - time.Duration(after-1)
}
