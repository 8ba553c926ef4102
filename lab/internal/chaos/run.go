package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// Outcome is what became of a run.
type Outcome struct {
	Settings []string // what the instances' role was given, in SQL
	Schedule []string // what was done, in order
	Report   check.Report
	Findings []string // broken promises, in words; none: all were kept
	Notes    []string // what was counted and accepted, in words
	// Recovery is how long it took, after all was well again, until everything was published.
	Recovery time.Duration
	// SubscriberReconnects of the judge's own connection, by the broker's restarts.
	SubscriberReconnects int
}

// Err is nil if every promise was kept.
func (o Outcome) Err() error {
	if len(o.Findings) == 0 {
		return nil
	}
	return errors.New(strings.Join(o.Findings, "\n"))
}

const (
	healLimit     = 90 * time.Second // how long to wait until everything is published after the destruction
	recoveryLimit = 40 * time.Second // how long it may take, on a machine that does other things too
	markerTopic   = "chaos/marker"
	markerID      = -1
)

// Run destroys, heals and judges once. An error means that it could not be done: broken
// promises are in the Outcome. It takes the duration, and the time that recovery takes.
func Run(ctx context.Context, cfg Config) (Outcome, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return Outcome{}, fmt.Errorf("chaos: %w", err)
	}
	w, err := newWorld(ctx, cfg)
	if err != nil {
		return Outcome{}, fmt.Errorf("chaos: %w", err)
	}
	o, err := w.run(ctx)
	if err := errors.Join(err, w.close()); err != nil {
		return o, fmt.Errorf("chaos: %w", err)
	}
	return o, nil
}

func (w *world) run(ctx context.Context) (Outcome, error) {
	var o Outcome
	subscriber, err := w.subscribe(ctx)
	if err != nil {
		return o, err
	}
	defer subscriber.Close()
	o.Settings = w.settings

	running, stop := context.WithCancel(ctx)
	defer stop()
	var instances sync.WaitGroup
	for _, in := range w.instances {
		instances.Go(func() { in.run(running) })
	}
	defer instances.Wait()
	defer stop()

	o.Schedule = w.destroy(ctx)
	if err := w.heal(ctx); err != nil {
		return o, err
	}
	conn, err := pgx.Connect(ctx, w.adminURL)
	if err != nil {
		return o, err
	}
	defer conn.Close(ctx)
	healed := time.Now()
	// Rows that could not be changed as well: now they can be.
	w.await(ctx, conn, "every row to be processed and the journal to be empty", healLimit, `
		SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed) AND NOT EXISTS (SELECT FROM reactor.in_flight)`)
	o.Recovery = time.Since(healed)
	if o.Recovery > recoveryLimit {
		w.found("it took %v until everything was published after all was well again, more than %v", o.Recovery.Round(time.Millisecond), recoveryLimit)
	}
	w.await(ctx, conn, "every shard to have a living owner, and every instance its lanes", 20*time.Second, `
		SELECT (SELECT count(*) FROM reactor.instances) = $1
		   AND (SELECT count(DISTINCT s.owner) FROM reactor.shards s JOIN reactor.instances i ON i.id = s.owner) = least($1, 64)
		   AND (SELECT count(*) FROM reactor.shards s JOIN reactor.instances i ON i.id = s.owner) = 64
		   AND NOT EXISTS (SELECT FROM reactor.instances i WHERE (SELECT count(*) FROM reactor.lanes l WHERE l.owner = i.id) <> 2)`, w.cfg.Instances)
	stop()
	instances.Wait()
	w.await(ctx, conn, "the instances to leave nothing behind", time.Second, `
		SELECT NOT EXISTS (SELECT FROM reactor.instances) AND NOT EXISTS (SELECT FROM reactor.in_flight)
		   AND NOT EXISTS (SELECT FROM reactor.shards WHERE owner IS NOT NULL)`)
	if err := w.judge(ctx, conn, subscriber, &o); err != nil {
		return o, err
	}
	o.SubscriberReconnects = subscriber.Progress().Reconnects
	o.Findings = append(w.allFindings(), o.Findings...)
	return o, nil
}

// destroy carries the schedule out, under load, and returns what was done.
func (w *world) destroy(ctx context.Context) []string {
	events := schedule(w.cfg)
	loading, done := context.WithCancel(ctx)
	var busy sync.WaitGroup
	busy.Go(func() { w.load.run(loading) })
	begun := time.Now()
	var did []string
	for _, e := range events {
		if !deploy.Sleep(ctx, e.at-time.Since(begun)) {
			break
		}
		w.cfg.Logger.Info(e.text)
		did = append(did, e.String())
		busy.Go(func() {
			if err := e.do(ctx, w); err != nil && !errors.Is(err, errBusy) {
				w.cfg.Logger.Debug("a fault went wrong", "fault", e.text, "err", err)
			}
		})
	}
	deploy.Sleep(ctx, w.cfg.Duration-time.Since(begun))
	done()
	busy.Wait()
	w.load.close()
	return did
}

// await waits for a condition in SQL, and records it if it does not come about.
func (w *world) await(ctx context.Context, conn *pgx.Conn, what string, limit time.Duration, sql string, args ...any) {
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		var ok bool
		// Not under the limit: to be interrupted in a query would cost the connection.
		err := conn.QueryRow(ctx, sql, args...).Scan(&ok)
		if ok {
			return
		}
		if err != nil && conn.IsClosed() {
			w.found("the judge's own connection broke while it waited for %s: %v", what, err)
			return
		}
		if !deploy.Sleep(waiting, 50*time.Millisecond) {
			w.found("waited %v in vain for %s (%v)%s", limit, what, err, whatIsStuck(context.WithoutCancel(ctx), conn))
			return
		}
	}
}
