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
//   - All sessions, as when a cluster manager demotes a primary. Open sessions become read-only,
//     and later writable again.
//   - New sessions, as after a failover by name. A session that is opened in this time stays
//     read-only until it ends, even when the database is writable again, and a pool keeps it.
//     The fault ends the instances' sessions, so that they open new ones in this time.
func drawReadOnly(r draw) action {
	allSessions, override, hold := r.IntN(2) == 0, r.IntN(2) == 0, r.duration(200*time.Millisecond, 6*time.Second)
	what, load := "new sessions", "goes on"
	if allSessions {
		what = "all sessions"
	}
	if !override {
		load = "fails too"
	}
	return action{fmt.Sprintf("%s, for %v; the load %s", what, hold, load), func(ctx context.Context, d *deployment) error {
		if !d.readOnly.TryLock() {
			return errBusy
		}
		defer d.readOnly.Unlock()
		d.load.overrideReadOnly(override)
		p := d.primary()
		set := p.SetReadOnly
		if !allSessions {
			set = func(ctx context.Context, on bool) error { return p.SetDatabaseReadOnly(ctx, "app", on) }
		}
		if err := set(ctx, true); err != nil {
			return err
		}
		if !allSessions {
			if err := d.terminateBackends(ctx, 1); err != nil {
				return err
			}
		}
		deploy.Sleep(ctx, hold)
		return set(context.WithoutCancel(ctx), false) // if the server is down now, heal does it later
	}}
}

// drawFailover loses the last commits: an asynchronous standby stops streaming for a moment, and
// is then promoted in place of its primary, at the same addresses.
func drawFailover(r draw) action {
	behind := r.duration(0, time.Second)
	if r.IntN(3) == 0 {
		behind *= 3
	}
	return action{fmt.Sprintf("to a standby that is %v behind", behind), func(ctx context.Context, d *deployment) error {
		return d.failover(ctx, behind)
	}}
}

// span is a time interval on the clock of this host, which is also the database's.
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

// primary returns the current primary.
func (d *deployment) primary() *stack.Postgres {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.postgres
}

// failover loses the commits that the primary makes while the standby is behind. It returns when
// a new standby streams, so two failovers never overlap.
func (d *deployment) failover(ctx context.Context, behind time.Duration) error {
	if !d.postgresDown.TryLock() {
		return errBusy
	}
	defer d.postgresDown.Unlock()
	ctx = context.WithoutCancel(ctx) // a failover must not end half-way
	old := d.primary()
	d.mu.Lock()
	standby := d.standby
	d.mu.Unlock()
	if standby == nil {
		return errBusy
	}
	// An instance may commit a little later than it acts, and a message that it has sent before
	// the kill may arrive after it.
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
	if d.trace != nil {
		d.trace.commitsLost(killed)
	}
	if err := standby.Promote(ctx); err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", standby.Port())
	d.mu.Lock()
	d.postgres, d.standby = standby, nil
	d.losses = append(d.losses, span{begun.Add(-slack), killed.Add(slack)})
	d.failovers++
	d.mu.Unlock()
	for _, p := range d.databaseProxies() {
		p.Retarget(address)
		p.Reset()
	}
	next, err := stack.StartStandby(ctx, standby)
	d.mu.Lock()
	d.standby = next
	d.mu.Unlock()
	return errors.Join(err, old.Close())
}
