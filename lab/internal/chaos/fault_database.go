package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// drawReadOnly turns the primary read-only for a while.
//
//   - All sessions: as a keeper demotes a primary. Open sessions follow, and come back.
//   - New sessions: as a failover by name leaves them. What connects meanwhile is read-only
//     for as long as it lives, also when the database is writable again: a pool keeps it.
//     The instances' sessions are ended, so that they connect meanwhile.
func drawReadOnly(d draw) action {
	sessions, insists, hold := d.IntN(2) == 0, d.IntN(2) == 0, d.duration(200*time.Millisecond, 6*time.Second)
	what, load := "new sessions", "goes on"
	if sessions {
		what = "all sessions"
	}
	if !insists {
		load = "fails too"
	}
	return action{fmt.Sprintf("%s, for %v; the load %s", what, hold, load), func(ctx context.Context, w *world) error {
		if !w.readOnly.TryLock() {
			return errBusy
		}
		defer w.readOnly.Unlock()
		w.load.insist(insists)
		p := w.primary()
		set := p.SetReadOnly
		if !sessions {
			set = func(ctx context.Context, on bool) error { return p.SetDatabaseReadOnly(ctx, "app", on) }
		}
		if err := set(ctx, true); err != nil {
			return err
		}
		if !sessions {
			if err := w.terminateBackends(ctx, 1); err != nil {
				return err
			}
		}
		deploy.Sleep(ctx, hold)
		return set(context.WithoutCancel(ctx), false) // heal does it again, if the server is down now
	}}
}

// drawFailover loses the last commits: an asynchronous standby, cut off for a moment, is
// promoted in the place of its primary, behind the same addresses.
func drawFailover(d draw) action {
	behind := d.duration(0, time.Second)
	if d.IntN(3) == 0 {
		behind *= 3
	}
	return action{fmt.Sprintf("to a standby that is %v behind", behind), func(ctx context.Context, w *world) error {
		return w.failover(ctx, behind)
	}}
}

// span is a stretch of time, on the clock of this host, which is the database's too.
type span struct{ from, to time.Time }

func (s span) contains(t time.Time) bool { return !t.Before(s.from) && !t.After(s.to) }

func within(spans []span, t time.Time) bool {
	for _, s := range spans {
		if s.contains(t) {
			return true
		}
	}
	return false
}

func (w *world) primary() *stack.Postgres {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.postgres
}

// failover loses what is committed in its first moments. It is over when a new standby
// streams, so that two never overlap.
func (w *world) failover(ctx context.Context, behind time.Duration) error {
	if !w.postgresDown.TryLock() {
		return errBusy
	}
	defer w.postgresDown.Unlock()
	ctx = context.WithoutCancel(ctx) // half a failover is none
	old := w.primary()
	w.mu.Lock()
	standby := w.standby
	w.mu.Unlock()
	if standby == nil {
		return errBusy
	}
	// What an instance did just before may have been committed just after, and what it had
	// sent before the end may arrive after it.
	const slack = 2 * time.Second
	begun := time.Now()
	if err := standby.StopStreaming(ctx); err != nil {
		return err
	}
	deploy.Sleep(ctx, behind)
	if err := old.Kill(); err != nil {
		return err
	}
	killed := time.Now()
	if w.ledger != nil {
		w.ledger.forgot(killed)
	}
	if err := standby.Promote(ctx); err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", standby.Port())
	w.mu.Lock()
	w.postgres, w.standby = standby, nil
	w.losses = append(w.losses, span{begun.Add(-slack), killed.Add(slack)})
	w.failovers++
	w.mu.Unlock()
	for _, p := range w.databaseProxies() {
		p.Retarget(address)
		p.Reset()
	}
	next, err := stack.StartStandby(ctx, standby)
	w.mu.Lock()
	w.standby = next
	w.mu.Unlock()
	return errors.Join(err, old.Close())
}
