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
	if cfg.Floor {
		cfg.Load = cfg.Load.forFloor()
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
	// those that are left. What is stored goes too, unless it goes with the whole server.
	defer func() {
		ctx := context.WithoutCancel(ctx)
		if d.ours.Postgres == nil {
			d.stored = noneStored
		}
		err = errors.Join(err, clear(ctx, d.conn, d.stored))
	}()
	r = Result{
		At: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Delivery: d.cfg.Delivery.String(), Instances: d.cfg.Instances, Lanes: d.cfg.Lanes, Load: d.cfg.Load,
		InstanceFlags: d.cfg.InstanceFlags, RoundCount: max(d.cfg.Rounds, 1),
	}
	if err := d.conn.QueryRow(ctx, "SELECT current_setting('server_version'), current_setting('fsync')").Scan(&r.PostgreSQL, &r.Fsync); err != nil {
		return r, err
	}
	if err := clear(ctx, d.conn, noneStored); err != nil { // also what an earlier run has stored
		return r, err
	}
	samples := samples{}
	variants := d.cfg.variants()
	switch {
	case d.cfg.Load.Idle > 0 && !d.cfg.Load.stored():
		err = d.measureIdle(ctx, variants, "", samples)
	case d.cfg.Load.Idle > 0:
		if err = d.measureIdle(ctx, variants, "", samples); err == nil {
			if err = d.store(ctx); err == nil {
				err = d.measureIdle(ctx, variants, storedSuffix, samples)
			}
		}
	default:
		err = d.measure(ctx, samples)
	}
	if err != nil {
		return r, err
	}
	if claim := samples.take(claimName); claim != nil {
		r.BareClaimsPerSecond = claim.PublishedPerSecond
	}
	r.Broker, r.Ceiling, r.Baseline = samples.take(brokerName), samples.take(ceilingName), samples.take(baselineName)
	r.Floor, r.FloorQoS1 = samples.take(floorName), samples.take(floorQoS1Name)
	r.Reactor = *samples.take(reactorName)
	for _, suffix := range []string{"", storedSuffix} {
		for _, v := range variants {
			if m := samples.take(v.name + suffix); m != nil && m.Name != reactorName {
				r.Variants = append(r.Variants, *m)
			}
		}
	}
	return r, nil
}

// storedSuffix is added to the names of what is measured after rows were stored.
const storedSuffix = ", stored rows"

// measure makes the measurements of all rounds: of an empty table, and then of one with stored
// rows if any are asked for.
func (d *deployment) measure(ctx context.Context, samples samples) error {
	if d.cfg.Floor {
		if _, err := d.conn.Exec(ctx, floorTable); err != nil {
			return fmt.Errorf("floor: %w", err)
		}
		defer func() { _, _ = d.conn.Exec(context.WithoutCancel(ctx), "DROP TABLE reactor_bench_floor") }()
	}
	if err := d.measureRounds(ctx, d.steps(), "", samples); err != nil || !d.cfg.Load.stored() {
		return err
	}
	if err := d.store(ctx); err != nil {
		return err
	}
	return d.measureRounds(ctx, d.steps(), storedSuffix, samples)
}

func (d *deployment) measureIdle(ctx context.Context, variants []variant, suffix string, samples samples) error {
	for _, v := range variants {
		v.name += suffix
		m, err := d.idle(ctx, v)
		if err != nil {
			return err
		}
		samples.add(m)
	}
	return nil
}

// measureClaim measures the bare claim. It publishes nothing, so there is only a rate.
func (d *deployment) measureClaim(ctx context.Context) (m Measurement, err error) {
	if err := clear(ctx, d.conn, d.stored); err != nil {
		return m, err
	}
	if _, err := d.cfg.Load.insert(ctx, d.conn); err != nil {
		return m, err
	}
	checkpoint(ctx, d.conn)
	d.progress(claimName, 0, d.cfg.Load.Jobs)
	m.PublishedPerSecond, err = Bare{DatabaseURL: d.database, Lanes: d.cfg.bareLanes(), Delivery: d.cfg.Delivery, After: d.stored}.claimAll(ctx)
	d.progress(claimName, d.cfg.Load.Jobs, d.cfg.Load.Jobs)
	return m, err
}

// measureBaseline measures the poller, with the index that it would have, or River. If a snapshot
// is to be held, it is held here too.
func (d *deployment) measureBaseline(ctx context.Context) (m Measurement, err error) {
	t := trial{
		name: baselineName, jobs: d.cfg.Load.Jobs, snapshot: d.cfg.HoldSnapshot, beside: d.cfg.Load.hasBeside(),
		begin: d.beginBare(d.cfg.Baseline, d.cfg.Delivery),
	}
	if d.cfg.Baseline == River {
		t.early = true // it must know its jobs beforehand
		defer func() { err = errors.Join(err, d.dropRiver(context.WithoutCancel(ctx))) }()
		return d.trial(ctx, t)
	}
	if d.cfg.Load.backlog() {
		t.jobs = min(t.jobs, baselineJobs)
	}
	if _, err := d.conn.Exec(ctx, pollIndex); err != nil {
		return m, err
	}
	defer func() {
		_, dropErr := d.conn.Exec(context.WithoutCancel(ctx), "DROP INDEX reactor_bench_poll")
		err = errors.Join(err, dropErr)
	}()
	return d.trial(ctx, t)
}

// baselineJobs limits the backlog of the poller, because the poller is slow.
const baselineJobs = 10_000

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
