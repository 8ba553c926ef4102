// Package ratelog keeps a failure that repeats from flooding the log: the first is
// written at once, the following ones are counted and summed up now and then.
package ratelog

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Interval is how often a repeated message is written.
const Interval = 10 * time.Second

// Limiter limits one kind of message. The zero value is ready; it may be used from
// several goroutines.
type Limiter struct {
	mu         sync.Mutex
	next       time.Time
	suppressed int
	failing    bool
}

// Fail logs the failure, unless it was logged less than Interval ago.
func (l *Limiter) Fail(log *slog.Logger, level slog.Level, msg string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failing = true
	now := time.Now()
	if now.Before(l.next) {
		l.suppressed++
		return
	}
	if l.suppressed > 0 {
		args = append(args, "repeated", l.suppressed)
	}
	log.Log(context.Background(), level, msg, args...)
	l.next, l.suppressed = now.Add(Interval), 0
}

// OK logs, once, that what failed works again.
func (l *Limiter) OK(log *slog.Logger, msg string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.failing {
		return
	}
	if l.suppressed > 0 {
		args = append(args, "repeated", l.suppressed)
	}
	l.failing, l.suppressed, l.next = false, 0, time.Time{}
	log.Info(msg, args...)
}
