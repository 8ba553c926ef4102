package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/reactor"
)

// patience is how long nothing may arrive, once jobs are due, before the rest is lost.
const patience = 20 * time.Second

// Run measures what cfg asks for. Broken promises are in the Result; an error means that
// it could not be measured.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if err := cfg.validate(); err != nil {
		return Result{}, err
	}
	d, err := deploy(ctx, cfg)
	if err != nil {
		return Result{}, err
	}
	r, err := d.run(ctx)
	return r, errors.Join(err, d.close())
}

func (d *deployment) run(ctx context.Context) (Result, error) {
	r := Result{
		At: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Delivery: d.cfg.Delivery.String(), Instances: d.cfg.Instances, Lanes: d.cfg.Lanes,
	}
	if err := d.conn.QueryRow(ctx, "SHOW server_version").Scan(&r.PostgreSQL); err != nil {
		return r, err
	}
	if d.cfg.Ceiling {
		m, err := d.trial(ctx, "ceiling", d.cfg.Load.Jobs, d.beginBare(Ceiling))
		if err != nil {
			return r, fmt.Errorf("ceiling: %w", err)
		}
		r.Ceiling = &m
	}
	if d.cfg.Baseline {
		jobs := d.cfg.Load.Jobs
		if d.cfg.Load.backlog() {
			jobs = min(jobs, baselineJobs)
		}
		if _, err := d.conn.Exec(ctx, pollIndex); err != nil {
			return r, fmt.Errorf("baseline: %w", err)
		}
		m, err := d.trial(ctx, "baseline", jobs, d.beginBare(Poller))
		_, dropErr := d.conn.Exec(context.WithoutCancel(ctx), "DROP INDEX reactor_bench_poll")
		if err := errors.Join(err, dropErr); err != nil {
			return r, fmt.Errorf("baseline: %w", err)
		}
		r.Baseline = &m
	}
	m, err := d.trial(ctx, "reactor", d.cfg.Load.Jobs, d.beginInstances)
	r.Reactor = m
	return r, errors.Join(err, clear(ctx, d.conn))
}

// baselineJobs bounds a backlog for the poller, which takes its time.
const baselineJobs = 10_000

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
	before := load.backlog() && !(name == "reactor" && d.cfg.Instances == 0)
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
	// What it has not settled would be published again.
	finished = true
	internals, err := drain.finish(ctx)
	if err != nil {
		return m, err
	}
	if m, err = d.judge(ctx, name, w, begun, perSecond); err != nil {
		return m, err
	}
	m.StatementsPerSecond = float64(now-asked) / took.Seconds()
	m.Usage, m.Internals = usage, internals
	return m, nil
}

// await waits until every job has arrived, or none has for a while after they were due.
func (d *deployment) await(ctx context.Context, name string, w *watcher, load Load, failed func() error) error {
	due := time.Now().Add(load.duration() + 2*ahead)
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
		if d.cfg.Progress != nil {
			d.cfg.Progress(Progress{Stage: name, Received: n, Of: load.Jobs})
		}
		if n >= load.Jobs || now.After(due) && now.Sub(since) > patience {
			return nil
		}
		if err := failed(); err != nil {
			return err
		}
		if !sleep(ctx, 50*time.Millisecond) {
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

// Internals is what the instances say of themselves, all together.
type Internals struct {
	ClaimMillis       float64 `json:"claim_ms"`       // mean of a claim
	JobsPerClaim      float64 `json:"jobs_per_claim"` // mean
	AckMillis         float64 `json:"ack_ms"`         // mean from PUBLISH to PUBACK or PUBREC
	SettleMillis      float64 `json:"settle_ms"`      // mean of a settlement
	JobsPerSettlement float64 `json:"jobs_per_settlement"`

	claims, settlements, claimed, published  int64
	claimTime, settleTime, acknowledgingTime time.Duration
}

func (t *Internals) add(s reactor.Stats) {
	t.claims += s.Claims
	t.settlements += s.Settlements
	t.claimed += s.Claimed
	t.published += s.Published
	t.claimTime += s.ClaimTime
	t.settleTime += s.SettleTime
	t.acknowledgingTime += s.AckTime
	t.ClaimMillis = mean(millis(t.claimTime), t.claims)
	t.JobsPerClaim = mean(float64(t.claimed), t.claims)
	t.AckMillis = mean(millis(t.acknowledgingTime), t.published)
	t.SettleMillis = mean(millis(t.settleTime), t.settlements)
	t.JobsPerSettlement = mean(float64(t.published), t.settlements)
}

func mean(sum float64, n int64) float64 {
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
