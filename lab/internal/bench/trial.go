package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// arrivalTimeout is how long a trial waits for the next message after all jobs are due. Then
// the jobs that have not arrived count as lost.
const arrivalTimeout = 20 * time.Second

// drainer publishes the load of a trial.
type drainer interface {
	// processes returns the processes that it has started.
	processes() []measuredProcess
	// failed returns an error if a process has ended unexpectedly.
	failed() error
	// finish stops the processes and returns their counters, or nil if they have none.
	finish(ctx context.Context) (*Internals, error)
}

// trial lets a drainer publish the load once, and compares the messages with the table. A
// backlog is inserted before the drainer starts, unless that already runs. Other loads are
// inserted when the drainer is ready.
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
		checkpoint(ctx, d.conn)
	}
	sub, err := subscribe(ctx, d.broker, topicPrefix+"+", jobs)
	if err != nil {
		return m, err
	}
	defer sub.close()
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
			_, _ = drain.finish(context.WithoutCancel(ctx)) // trial returns an earlier error
		}
	}()
	if !before {
		if perSecond, err = load.insert(ctx, d.conn); err != nil {
			return m, err
		}
	}
	var more *beside
	if load.Beside > 0 {
		if more, err = d.beginBeside(ctx, load.Beside); err != nil {
			return m, err
		}
		defer more.close()
	}
	if err := d.await(ctx, name, sub, load, more, drain.failed); err != nil {
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
	// A clean stop settles all jobs. Jobs that are not settled would be published again.
	finished = true
	internals, err := drain.finish(ctx)
	if err != nil {
		return m, err
	}
	if m, err = d.evaluate(ctx, name, sub, more, begun, perSecond); err != nil {
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
	if !deploy.Sleep(ctx, warmUp) {
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

// warmUp is the time in which instances share the table and read it once.
const warmUp = 5 * time.Second

func (d *deployment) progress(stage string, done, of int) {
	if d.cfg.Progress != nil {
		d.cfg.Progress(Progress{Stage: stage, Done: done, Of: of})
	}
}

// await waits until every job has arrived, or until no message has arrived for arrivalTimeout
// after all jobs are due.
func (d *deployment) await(ctx context.Context, name string, sub *subscriber, load Load, beside *beside, failed func() error) error {
	due := time.Now().Add(load.duration() + load.ahead())
	last, since, more := 0, time.Now(), beside
	for {
		n, err := sub.count()
		if err != nil {
			return fmt.Errorf("the subscriber has lost its connection: %w", err)
		}
		if beside != nil {
			m, err := beside.sub.count()
			if err != nil {
				return fmt.Errorf("the subscriber has lost its connection: %w", err)
			}
			n += m
		}
		now := time.Now()
		if n > last {
			last, since = n, now
		}
		d.progress(name, n, load.Jobs)
		if alone, _ := sub.count(); more != nil && alone >= load.Jobs && now.Sub(more.begun) > leastBeside {
			inserted, err := more.end()
			if err != nil {
				return err
			}
			load.Jobs, more = load.Jobs+inserted, nil
			due = now.Add(besideAhead + besideEvery)
		}
		if more == nil && n >= load.Jobs || now.After(due) && now.Sub(since) > arrivalTimeout {
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

// evaluate compares the messages with the table. The lateness of a backlog counts from the
// start of the drainer.
func (d *deployment) evaluate(ctx context.Context, name string, sub *subscriber, more *beside, begun time.Time, insertedPerSecond float64) (Measurement, error) {
	var knownAt time.Time
	if d.cfg.Load.backlog() {
		knownAt = begun
	}
	jobs, err := expected(ctx, d.conn, knownAt)
	if err != nil {
		return Measurement{}, err
	}
	received := sub.all()
	if more != nil {
		received = append(received, more.sub.all()...)
	}
	m := newMeasurement(name, check.Compare(jobs, received, check.Config{}), received)
	m.InsertedPerSecond = insertedPerSecond
	if d.cfg.Load.Beside > 0 {
		m.Beside = besideLateness(jobs, received)
	}
	return m, nil
}
