package reactor

import (
	"context"
	"sync"
	"time"
)

// healthLog remembers since when each part of an instance has been in its state.
type healthLog struct {
	mu    sync.Mutex
	parts map[string]partState // guarded by mu
}

type partState struct {
	state State
	since time.Time
}

// note adds to a judgement for how long each part has been in its state.
func (l *healthLog) note(h *Health, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.parts == nil {
		l.parts = map[string]partState{}
	}
	for i := range h.Parts {
		p := &h.Parts[i]
		was, known := l.parts[p.Name]
		if !known || was.state != p.State {
			was = partState{p.State, now}
			l.parts[p.Name] = was
		}
		p.For = now.Sub(was.since)
	}
}

// healthInterval is how exactly it is known since when a part is in its state.
const healthInterval = time.Second

// watchHealth judges now and then, so that Health knows since when, however seldom it is called.
func (r *Reactor) watchHealth(ctx context.Context) {
	ticker := time.NewTicker(healthInterval)
	defer ticker.Stop()
	for {
		r.Health()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Health judges whether due jobs are published. It may be called at any time.
func (r *Reactor) Health() Health {
	h := r.vitals().Health()
	r.healthLog.note(&h, time.Now())
	return h
}
