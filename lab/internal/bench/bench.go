package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
)

// Run makes the measurements of cfg. Lost, duplicated and early jobs are in the Result; an
// error means that the measurement failed.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if err := cfg.Validate(); err != nil {
		return Result{}, err
	}
	d, err := newDeployment(ctx, cfg)
	if err != nil {
		return Result{}, err
	}
	r, err := d.run(ctx)
	return r, errors.Join(err, d.close())
}

func (d *deployment) run(ctx context.Context) (r Result, err error) {
	// Delete the jobs also after an interruption: otherwise the next instance would publish
	// those that are left.
	defer func() { err = errors.Join(err, clear(context.WithoutCancel(ctx), d.conn)) }()
	r = Result{
		At: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Delivery: d.cfg.Delivery.String(), Instances: d.cfg.Instances, Lanes: d.cfg.Lanes, Load: d.cfg.Load,
	}
	if err := d.conn.QueryRow(ctx, "SELECT current_setting('server_version'), current_setting('fsync')").Scan(&r.PostgreSQL, &r.Fsync); err != nil {
		return r, err
	}
	if d.cfg.Load.Idle > 0 {
		r.Reactor, err = d.idle(ctx)
		return r, err
	}
	if d.cfg.Ceiling {
		if err := d.ceilings(ctx, &r); err != nil {
			return r, fmt.Errorf("ceiling: %w", err)
		}
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
	r.Reactor, err = d.trial(ctx, "reactor", d.cfg.Load.Jobs, d.beginInstances)
	return r, err
}

// ceilings measures the bare claim, the bare broker, and both together.
func (d *deployment) ceilings(ctx context.Context, r *Result) error {
	if err := clear(ctx, d.conn); err != nil {
		return err
	}
	if _, err := d.cfg.Load.insert(ctx, d.conn); err != nil {
		return err
	}
	checkpoint(ctx, d.conn)
	d.progress("claim", 0, d.cfg.Load.Jobs)
	claims, err := Bare{DatabaseURL: d.database, Lanes: d.cfg.bareLanes(), Delivery: d.cfg.Delivery}.claimAll(ctx)
	if err != nil {
		return err
	}
	d.progress("claim", d.cfg.Load.Jobs, d.cfg.Load.Jobs)
	broker, err := d.trial(ctx, "broker", d.cfg.Load.Jobs, d.beginBare(Broker))
	if err != nil {
		return err
	}
	both, err := d.trial(ctx, "ceiling", d.cfg.Load.Jobs, d.beginBare(Ceiling))
	r.BareClaimsPerSecond, r.Broker, r.Ceiling = claims, &broker, &both
	return err
}

// baselineJobs limits the backlog of the poller, because the poller is slow.
const baselineJobs = 10_000

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
