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
	"github.com/job-publisher/reactor/reactor"
)

// Outcome is what became of a run.
type Outcome struct {
	Schedule []string // what was done, in order
	Report   check.Report
	Findings []string // broken promises, in words; none: all were kept
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
	healLimit   = 90 * time.Second // until everything is published after the destruction
	markerTopic = "chaos/marker"
	markerID    = -1
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
	subscriber, err := check.Subscribe(ctx, check.SubscriberConfig{URL: w.broker.URL(), Filter: "chaos/#", QoS: 2})
	if err != nil {
		return o, err
	}
	defer subscriber.Close()

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
	w.await(ctx, conn, "every row to be processed and the journal to be empty", healLimit, `
		SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed) AND NOT EXISTS (SELECT FROM reactor.in_flight)`)
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
		if !sleep(ctx, e.at-time.Since(begun)) {
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
	sleep(ctx, w.cfg.Duration-time.Since(begun))
	done()
	busy.Wait()
	w.load.close()
	return did
}

// await waits for a condition in SQL, and records it if it does not come about.
func (w *world) await(ctx context.Context, conn *pgx.Conn, what string, limit time.Duration, sql string, args ...any) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		var ok bool
		err := conn.QueryRow(ctx, sql, args...).Scan(&ok)
		if ok {
			return
		}
		if !sleep(ctx, 50*time.Millisecond) {
			w.found("waited %v in vain for %s (%v)", limit, what, err)
			return
		}
	}
}

// judge compares the table with what has arrived.
func (w *world) judge(ctx context.Context, conn *pgx.Conn, subscriber *check.Subscriber, o *Outcome) error {
	expected, err := check.ExpectedFromDB(ctx, conn, "")
	if err != nil {
		return err
	}
	// What is sent last arrives last: when the marker is there, so is everything else.
	expected = append(expected, check.Expected{ID: markerID, Topic: markerTopic, FireAt: time.Now()})
	if err := check.Mark(ctx, w.broker.URL(), markerTopic, markerID); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	if err := subscriber.WaitFor(waiting, markerID); err != nil {
		return err
	}
	o.Report = check.Judge(expected, subscriber.Received(), check.Config{})
	r := o.Report
	switch w.cfg.Delivery {
	case reactor.AtLeastOnce:
		r.Duplicated = check.Findings{}
	case reactor.AtMostOnce:
		r.Lost = check.Findings{}
	}
	if err := r.Err(); err != nil {
		o.Findings = append(o.Findings, err.Error())
	}
	if n := subscriber.Progress().SessionsLost; n > 0 {
		o.Findings = append(o.Findings, fmt.Sprintf("the broker lost the judge's session %d times: nothing is proved", n))
	}
	if w.cfg.Delivery == reactor.AtMostOnce {
		return nil // failing is how a doubt ends there
	}
	var failed int
	var reason *string
	if err := conn.QueryRow(ctx, "SELECT count(*), min(reason) FROM reactor.failed_jobs").Scan(&failed, &reason); err != nil {
		return err
	}
	if failed > 0 {
		o.Findings = append(o.Findings, fmt.Sprintf("%d jobs failed, one with %q", failed, *reason))
	}
	return nil
}
