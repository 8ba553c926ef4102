package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// patience is how long nothing may arrive, once jobs are due, before the rest is lost.
const patience = 20 * time.Second

// drainer is whoever drains the load of a trial.
type drainer interface {
	// processes are those it has begun.
	processes() []subject
	// failed is why it has ended though it should not have.
	failed() error
	// finish stops it and returns what it says of itself, if anything.
	finish(ctx context.Context) (*Internals, error)
}

// trial has the load drained once, on an empty table, and judges. A backlog is there
// before the drainer begins, unless that runs already; other loads are inserted once it
// is ready.
func (d *deployment) trial(ctx context.Context, name string, jobs int, begin func(context.Context) (drainer, error)) (m Measurement, err error) {
	load := d.cfg.Load
	load.Jobs = jobs
	if err := clear(ctx, d.conn); err != nil {
		return m, err
	}
	before := load.backlog() && d.cfg.Instances > 0
	perSecond := 0.0
	if before {
		if perSecond, err = load.insert(ctx, d.conn); err != nil {
			return m, err
		}
		settleDown(ctx, d.conn)
	}
	w, err := watch(ctx, d.broker, jobs)
	if err != nil {
		return m, err
	}
	defer w.close()
	asked, err := statements(ctx, d.conn)
	if err != nil {
		return m, err
	}
	meter := startMeter(d.servers()...)
	begun := time.Now()
	drain, err := begin(ctx)
	if err != nil {
		return m, err
	}
	finished := false
	defer func() {
		if !finished {
			_, _ = drain.finish(context.WithoutCancel(ctx)) // there is an error already
		}
	}()
	if !before {
		if perSecond, err = load.insert(ctx, d.conn); err != nil {
			return m, err
		}
	}
	if err := d.await(ctx, name, w, load, drain.failed); err != nil {
		return m, err
	}
	took := time.Since(begun)
	usage := meter.read()
	for _, s := range drain.processes() {
		usage = append(usage, s.usage())
	}
	now, err := statements(ctx, d.conn)
	if err != nil {
		return m, err
	}
	held, err := connections(ctx, d.conn)
	if err != nil {
		return m, err
	}
	// What it has not settled would be published again.
	finished = true
	internals, err := drain.finish(ctx)
	if err != nil {
		return m, err
	}
	if m, err = d.judge(ctx, name, w, begun, perSecond); err != nil {
		return m, err
	}
	m.Seconds, m.StatementsPerSecond = took.Seconds(), float64(now-asked)/took.Seconds()
	m.Connections, m.Usage, m.Internals = held, usage, internals
	return m, nil
}

// idle measures instances that have nothing to do.
func (d *deployment) idle(ctx context.Context) (m Measurement, err error) {
	if err := clear(ctx, d.conn); err != nil {
		return m, err
	}
	drain, err := d.beginInstances(ctx)
	if err != nil {
		return m, err
	}
	defer func() {
		_, finishErr := drain.finish(context.WithoutCancel(ctx))
		err = errors.Join(err, finishErr)
	}()
	if !deploy.Sleep(ctx, settlingIn) {
		return m, ctx.Err()
	}
	asked, err := statements(ctx, d.conn)
	if err != nil {
		return m, err
	}
	begun := time.Now()
	meter := startMeter(append(d.servers(), drain.processes()...)...)
	for elapsed := time.Duration(0); elapsed < d.cfg.Load.Idle; elapsed = time.Since(begun) {
		if err := drain.failed(); err != nil {
			return m, err
		}
		d.progress("idle", int(elapsed.Seconds()), int(d.cfg.Load.Idle.Seconds()))
		if !deploy.Sleep(ctx, min(time.Second, d.cfg.Load.Idle-elapsed)) {
			return m, ctx.Err()
		}
	}
	m.Name, m.Usage, m.Seconds = "reactor", meter.read(), time.Since(begun).Seconds()
	now, err := statements(ctx, d.conn)
	if err != nil {
		return m, err
	}
	m.StatementsPerSecond = float64(now-asked) / m.Seconds
	m.Connections, err = connections(ctx, d.conn)
	return m, err
}

// settlingIn is how long instances get to share the table and to look through it once.
const settlingIn = 5 * time.Second

func (d *deployment) progress(stage string, done, of int) {
	if d.cfg.Progress != nil {
		d.cfg.Progress(Progress{Stage: stage, Done: done, Of: of})
	}
}

// await waits until every job has arrived, or none has for a while after they were due.
func (d *deployment) await(ctx context.Context, name string, w *watcher, load Load, failed func() error) error {
	due := time.Now().Add(load.duration() + load.ahead())
	last, since := 0, time.Now()
	for {
		n, err := w.count()
		if err != nil {
			return fmt.Errorf("the subscriber has lost its connection: %w", err)
		}
		now := time.Now()
		if n > last {
			last, since = n, now
		}
		d.progress(name, n, load.Jobs)
		if n >= load.Jobs || now.After(due) && now.Sub(since) > patience {
			return nil
		}
		if err := failed(); err != nil {
			return err
		}
		if !deploy.Sleep(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// judge holds what arrived against the table. Lateness of a backlog counts from the start
// of whoever drains it.
func (d *deployment) judge(ctx context.Context, name string, w *watcher, begun time.Time, insertedPerSecond float64) (Measurement, error) {
	var knownAt time.Time
	if d.cfg.Load.backlog() {
		knownAt = begun
	}
	jobs, err := expected(ctx, d.conn, knownAt)
	if err != nil {
		return Measurement{}, err
	}
	received := w.all()
	m := newMeasurement(name, check.Judge(jobs, received, check.Config{}), received)
	m.InsertedPerSecond = insertedPerSecond
	return m, nil
}
