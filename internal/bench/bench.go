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
		m, err := d.bare(ctx, "ceiling", d.cfg.Load.Jobs, func(ctx context.Context, _ func()) error { return d.drainBare(ctx) })
		if err != nil {
			return r, fmt.Errorf("ceiling: %w", err)
		}
		r.Ceiling = &m
	}
	if d.cfg.Baseline {
		jobs := d.cfg.Load.Jobs
		if d.cfg.Load.backlog() {
			jobs = min(jobs, 10_000) // it takes its time
		}
		if _, err := d.conn.Exec(ctx, pollIndex); err != nil {
			return r, fmt.Errorf("baseline: %w", err)
		}
		m, err := d.bare(ctx, "baseline", jobs, func(ctx context.Context, ready func()) error {
			ready()
			return d.poll(ctx)
		})
		_, dropErr := d.conn.Exec(context.WithoutCancel(ctx), "DROP INDEX reactor_bench_poll")
		if err := errors.Join(err, dropErr); err != nil {
			return r, fmt.Errorf("baseline: %w", err)
		}
		r.Baseline = &m
	}
	m, err := d.measure(ctx)
	r.Reactor = m
	return r, errors.Join(err, clear(ctx, d.conn))
}

// bare measures something that is not reactor. A backlog is there before it starts; other
// loads are inserted when it is ready.
func (d *deployment) bare(ctx context.Context, name string, jobs int, drain func(ctx context.Context, ready func()) error) (Measurement, error) {
	load := d.cfg.Load
	load.Jobs = jobs
	if err := clear(ctx, d.conn); err != nil {
		return Measurement{}, err
	}
	perSecond := 0.0
	var err error
	if load.backlog() {
		if perSecond, err = load.insert(ctx, d.conn); err != nil {
			return Measurement{}, err
		}
		settleDown(ctx, d.conn)
	}
	w, err := watch(ctx, d.broker, jobs)
	if err != nil {
		return Measurement{}, err
	}
	defer w.close()
	draining, end := context.WithCancel(ctx)
	defer end()
	ready, drained := make(chan struct{}, 1), make(chan error, 1)
	begun := time.Now()
	go func() { drained <- drain(draining, func() { ready <- struct{}{} }) }()
	if !load.backlog() {
		select {
		case <-ready:
		case err := <-drained:
			return Measurement{}, err
		}
		if perSecond, err = load.insert(ctx, d.conn); err != nil {
			return Measurement{}, err
		}
	}
	if err := d.await(ctx, name, w, load, drained); err != nil {
		return Measurement{}, err
	}
	end()
	return d.judge(ctx, name, w, begun, perSecond)
}

// measure measures reactor.
func (d *deployment) measure(ctx context.Context) (Measurement, error) {
	const name = "reactor"
	load := d.cfg.Load
	if err := clear(ctx, d.conn); err != nil {
		return Measurement{}, err
	}
	w, err := watch(ctx, d.broker, load.Jobs)
	if err != nil {
		return Measurement{}, err
	}
	defer w.close()
	perSecond := 0.0
	// With instances that run already, a backlog comes into being in front of them.
	before := load.backlog() && d.cfg.Instances > 0
	if before {
		if perSecond, err = load.insert(ctx, d.conn); err != nil {
			return Measurement{}, err
		}
		settleDown(ctx, d.conn)
	}
	transactions, err := d.transactions(ctx)
	if err != nil {
		return Measurement{}, err
	}
	begun := time.Now()
	instances, err := d.start(ctx)
	if err != nil {
		return Measurement{}, err
	}
	defer func() { stop(instances) }()
	if !before {
		if perSecond, err = load.insert(ctx, d.conn); err != nil {
			return Measurement{}, err
		}
	}
	if err := d.await(ctx, name, w, load, nil); err != nil {
		return Measurement{}, err
	}
	took := time.Since(begun)
	var internals Internals
	for _, in := range instances {
		s, err := in.stats(ctx)
		if err != nil {
			return Measurement{}, fmt.Errorf("ask an instance: %w", err)
		}
		internals.add(s)
		internals.Processes = append(internals.Processes, in.usage())
	}
	stop(instances) // what they have not settled would be published again
	instances = nil
	m, err := d.judge(ctx, name, w, begun, perSecond)
	if err != nil {
		return m, err
	}
	if now, err := d.transactions(ctx); err == nil {
		internals.TransactionsPerSecond = float64(now-transactions) / took.Seconds()
	}
	if d.cfg.Instances > 0 {
		m.Internals = &internals
	}
	return m, nil
}

// await waits until every job has arrived, or none has for a while after they were due.
func (d *deployment) await(ctx context.Context, name string, w *watcher, load Load, drained <-chan error) error {
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
		select {
		case err := <-drained:
			if err != nil {
				return err
			}
			drained = nil // done; the last messages are on their way
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
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
	ClaimMillis           float64 `json:"claim_ms"`       // mean of a claim
	JobsPerClaim          float64 `json:"jobs_per_claim"` // mean
	AckMillis             float64 `json:"ack_ms"`         // mean from PUBLISH to PUBACK or PUBREC
	SettleMillis          float64 `json:"settle_ms"`      // mean of a settlement
	JobsPerSettlement     float64 `json:"jobs_per_settlement"`
	TransactionsPerSecond float64 `json:"database_transactions_per_second"`
	Processes             []Usage `json:"processes"`

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
