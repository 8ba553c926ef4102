package reactor

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// progress is what tells that an instance does what it is there for: when each of the
// things it lives by last succeeded, and what is due and has not been published.
type progress struct {
	beaten, loaded, claimed, settled moment

	mu     sync.Mutex
	stages map[stage]struct{} // guarded by mu
}

// stage is a place where jobs wait.
type stage interface {
	// oldestDue is when the first of the jobs was due, or is, that are here and not
	// published; nothingDue if there is none. It may be called from any goroutine.
	oldestDue() DBTime
}

// nothingDue is later than everything.
const nothingDue DBTime = math.MaxInt64

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
func (p *progress) oldestDue() DBTime {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := nothingDue
	for s := range p.stages {
		oldest = min(oldest, s.oldestDue())
	}
	return oldest
}

// moment is when something last succeeded. The zero value is never.
type moment struct{ at atomic.Pointer[time.Time] }

func (m *moment) touch() {
	now := time.Now()
	m.at.Store(&now)
}

// age is how long ago that was; false: never.
func (m *moment) age() (time.Duration, bool) {
	at := m.at.Load()
	if at == nil {
		return 0, false
	}
	return time.Since(*at), true
}

// oldestDue implements stage: the batch that is being claimed.
func (c *claimer) oldestDue() DBTime { return DBTime(c.inHand.Load()) }

// oldestDue implements stage: what is claimed, and not yet accepted by the broker.
func (l *lane) oldestDue() DBTime {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := nothingDue
	for _, f := range l.batches {
		for i := range f.kept {
			if fl := l.at(f.slot(i)); fl.state >= held && fl.state <= sent && fl.job.Topic != "" {
				oldest = min(oldest, fl.job.FireAt)
			}
		}
	}
	return oldest
}
