package reactor

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// progress is what tells that an instance does what it is there for: when each of the
// things it lives by last succeeded, and what is due and has not been published.
type progress struct {
	// A beat, a reading of the clock (on the connections of the claims), a claim that got something, a settlement, and a message that the broker accepted.
	beaten, answered, claimed, settled, accepted moment

	mu     sync.Mutex
	stages map[stage]struct{} // guarded by mu
}

// stage is a place where jobs wait.
type stage interface {
	// oldestDue is when the first of the jobs was due, or is, that are here and not
	// published; nothingDue if there is none. It may be called from any goroutine.
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

// oldestDue is that of all stages.
func (p *progress) oldestDue() driver.DBTime {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := nothingDue
	for s := range p.stages {
		oldest = min(oldest, s.oldestDue())
	}
	return oldest
}

// moment is when something last succeeded, in nanoseconds after began. The zero value is
// never.
type moment struct{ after atomic.Int64 }

// began has the monotonic reading that moments count from.
var began = time.Now()

func (m *moment) touch() { m.after.Store(int64(time.Since(began)) + 1) }

// age is how long ago that was; negative: never.
func (m *moment) age() time.Duration {
	after := m.after.Load()
	if after == 0 {
		return -1
	}
	return time.Since(began) - time.Duration(after-1)
}
