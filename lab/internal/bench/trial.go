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

// trial is the publishing of a load by one drainer.
type trial struct {
	name     string
	jobs     int
	early    bool // the load is inserted before the drainer starts; that of a backlog always is
	snapshot bool // a snapshot is held meanwhile
	beside   bool // so are other jobs
	begin    func(context.Context) (drainer, error)
}

// trial lets a drainer publish the load once, and compares the messages with the table. A
// backlog is inserted before the drainer starts, unless that already runs. Other loads are
// inserted when the drainer is ready, except for one that must know them beforehand.
func (d *deployment) trial(ctx context.Context, t trial) (m Measurement, err error) {
	load := d.cfg.Load
	load.Jobs = t.jobs
	if err := clear(ctx, d.conn, d.stored); err != nil {
		return m, err
	}
	if t.snapshot {
		held, heldErr := d.holdSnapshot(ctx)
		if heldErr != nil {
			return m, heldErr
		}
		defer func() { err = errors.Join(err, held.release(context.WithoutCancel(ctx))) }()
	}
	before := load.backlog() && d.cfg.Instances > 0
	var inserted insertion
	if before || t.early {
		if inserted, err = load.insert(ctx, d.conn); err != nil {
			return m, err
		}
	}
	if before {
		checkpoint(ctx, d.conn)
	}
	sub, err := subscribe(ctx, d.broker, topicPrefix+"+", t.jobs)
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
	drain, err := t.begin(ctx)
	if err != nil {
		return m, err
	}
	finished := false
	defer func() {
		if !finished {
			_, _ = drain.finish(context.WithoutCancel(ctx)) // trial returns an earlier error
		}
	}()
	if !before && !t.early {
		if inserted, err = load.insert(ctx, d.conn); err != nil {
			return m, err
		}
	}
	var pieces *sliceMeter
	if d.cfg.HoldSnapshot {
		pieces = newSliceMeter(inserted.begin, load)
	}
	var more *beside
	if t.beside {
		if more, err = d.beginBeside(ctx); err != nil {
			return m, err
		}
		defer more.close()
	}
	w := waiting{name: t.name, sub: sub, load: load, failed: drain.failed, beside: more, pieces: pieces}
	if err := d.await(ctx, &w); err != nil {
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
	var idle *IdleUsage
	if t.name != baselineName && d.cfg.HoldSnapshot {
		if idle, err = d.idleAfter(ctx, drain); err != nil {
			return m, err
		}
	}
	// A clean stop settles all jobs. Jobs that are not settled would be published again.
	finished = true
	internals, err := drain.finish(ctx)
	if err != nil {
		return m, err
	}
	if m, err = d.evaluate(ctx, t, sub, more, begun, pieces); err != nil {
		return m, err
	}
	m.InsertedPerSecond, m.Connections, m.IdleAfter = inserted.perSecond, w.connections, idle
	m.Seconds, m.StatementsPerSecond = took.Seconds(), float64(now-asked)/took.Seconds()
	m.StatementsPerJob = float64(now-asked) / float64(max(m.Jobs, 1))
	m.Usage, m.Internals = usage, internals
	return m, nil
}

// idle measures instances that have nothing to do.
func (d *deployment) idle(ctx context.Context, v variant) (m Measurement, err error) {
	if err := clear(ctx, d.conn, d.stored); err != nil {
		return m, err
	}
	drain, err := d.beginInstances(v)(ctx)
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
	m.Name, m.Usage, m.Seconds = v.name, meter.read(), time.Since(begun).Seconds()
	now, err := statements(ctx, d.conn)
	if err != nil {
		return m, err
	}
	m.StatementsPerSecond = float64(now-asked) / m.Seconds
	m.Connections, err = connections(ctx, d.conn)
	return m, err
}

// idleTime is how long, at most, instances that have published everything are measured under a
// snapshot.
const idleTime = 10 * time.Second

// idleAfter measures instances that have published everything, while the snapshot is still held.
func (d *deployment) idleAfter(ctx context.Context, drain drainer) (*IdleUsage, error) {
	if !deploy.Sleep(ctx, time.Second) { // they settle the last jobs
		return nil, ctx.Err()
	}
	before, begun := readStatementTimes(ctx, d.conn), time.Now()
	meter := startMeter(append(d.servers(), drain.processes()...)...)
	if !deploy.Sleep(ctx, min(idleTime, d.cfg.Load.duration())) {
		return nil, ctx.Err()
	}
	usage := meter.read()
	return &IdleUsage{
		Seconds: time.Since(begun).Seconds(), Usage: usage, Costs: readStatementTimes(ctx, d.conn).since(before),
	}, drain.failed()
}

// warmUp is the time in which instances share the table and read it once.
const warmUp = 5 * time.Second

func (d *deployment) progress(stage string, done, of int) {
	if d.cfg.Progress != nil {
		d.cfg.Progress(Progress{Stage: stage, Done: done, Of: of})
	}
}

// waiting is what await waits for, and what it reads meanwhile.
type waiting struct {
	name   string
	sub    *subscriber
	load   Load
	failed func() error
	beside *beside     // nil: none
	pieces *sliceMeter // nil: not asked for

	connections int // result: the most that the instances held at once
}

// await waits until every job has arrived, or until no message has arrived for arrivalTimeout
// after all jobs are due.
func (d *deployment) await(ctx context.Context, w *waiting) error {
	due := time.Now().Add(w.load.duration() + w.load.ahead())
	last, since, counted := 0, time.Now(), time.Time{}
	for {
		n, err := w.sub.count()
		if err != nil {
			return fmt.Errorf("the subscriber has lost its connection: %w", err)
		}
		now, wanted, ending := time.Now(), w.load.Jobs, true
		if w.beside != nil {
			// It goes on until the load has arrived: then what is missing is what it has inserted.
			if ending = n >= wanted && now.Sub(w.beside.begun) >= w.beside.least; ending {
				if _, err := w.beside.end(); err != nil {
					return err
				}
			}
			arrived, err := w.beside.sub.count()
			if err != nil {
				return fmt.Errorf("the subscriber has lost its connection: %w", err)
			}
			n += arrived
			wanted += int(w.beside.inserted.Load())
		}
		if n > last {
			last, since = n, now
		}
		d.progress(w.name, n, wanted)
		if ending && n >= wanted || now.After(due) && now.Sub(since) > arrivalTimeout {
			return nil
		}
		if err := w.failed(); err != nil {
			return err
		}
		if w.pieces != nil {
			w.pieces.tick(ctx, d.conn, now)
		}
		if now.Sub(counted) > time.Second {
			held, err := connections(ctx, d.conn)
			if err != nil {
				return err
			}
			w.connections, counted = max(w.connections, held), now
		}
		if !deploy.Sleep(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// evaluate compares the messages with the table. The lateness of a backlog counts from the
// start of the drainer.
func (d *deployment) evaluate(ctx context.Context, t trial, sub *subscriber, more *beside, begun time.Time, pieces *sliceMeter) (m Measurement, err error) {
	var knownAt time.Time
	if d.cfg.Load.backlog() {
		knownAt = begun
	}
	jobs, err := expected(ctx, d.conn, loadCondition(d.stored), knownAt)
	if err != nil {
		return m, err
	}
	received := sub.all()
	m = newMeasurement(t.name, check.Compare(jobs, received, check.Config{}), received)
	if more != nil {
		if m.Beside, err = more.measure(ctx, d); err != nil {
			return m, err
		}
	}
	if len(received) > 0 && d.cfg.Load.backlog() {
		m.FirstSeconds = received[0].At.Sub(begun).Seconds()
	}
	if pieces != nil {
		m.Slices = pieces.finish(ctx, d.conn, jobs, received)
	}
	return m, nil
}
