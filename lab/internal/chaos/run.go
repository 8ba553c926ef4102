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

// Outcome is the result of a run.
type Outcome struct {
	Settings []string // settings of the instances' role, as SQL statements
	Schedule []string // the faults, in order
	Report   check.Report
	Findings []string // broken promises as texts; empty if all were kept
	Notes    []string // counts, and what was accepted, as texts
	// Recovery is the time from the end of all faults until every job was published.
	Recovery time.Duration
	// SubscriberReconnects counts how often the subscriber has reconnected after a restart of the
	// broker.
	SubscriberReconnects int
}

// Err returns nil if every promise was kept.
func (o Outcome) Err() error {
	if len(o.Findings) == 0 {
		return nil
	}
	return errors.New(strings.Join(o.Findings, "\n"))
}

const (
	healLimit     = 90 * time.Second // how long to wait after the faults until every job is published
	recoveryLimit = 40 * time.Second // how long that may take, on a busy machine
	markerTopic   = "chaos/marker"
	markerID      = -1
)

// Run runs one seed: it makes faults, ends them, and checks what was delivered. Broken promises are
// in the Outcome; an error means that the run itself failed. It takes Config.Duration and the time
// of the recovery.
func Run(ctx context.Context, cfg Config) (Outcome, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return Outcome{}, fmt.Errorf("chaos: %w", err)
	}
	d, err := newDeployment(ctx, cfg)
	if err != nil {
		return Outcome{}, fmt.Errorf("chaos: %w", err)
	}
	o, err := d.run(ctx)
	if err := errors.Join(err, d.close()); err != nil {
		return o, fmt.Errorf("chaos: %w", err)
	}
	return o, nil
}

func (d *deployment) run(ctx context.Context) (Outcome, error) {
	var o Outcome
	subscriber, err := d.subscribe(ctx)
	if err != nil {
		return o, err
	}
	defer subscriber.Close()
	o.Settings = d.settings

	running, stop := context.WithCancel(ctx)
	defer stop()
	var instances sync.WaitGroup
	for _, in := range d.instances {
		instances.Go(func() { in.run(running) })
	}
	defer instances.Wait()
	defer stop()

	o.Schedule = d.injectFaults(ctx)
	if err := d.heal(ctx); err != nil {
		return o, err
	}
	conn, err := pgx.Connect(ctx, d.adminURL)
	if err != nil {
		return o, err
	}
	defer conn.Close(ctx)
	healed := time.Now()
	// This includes the rows that could not be changed during a fault.
	d.await(ctx, conn, "every row to be processed and the journal to be empty", healLimit, `
		SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed) AND NOT EXISTS (SELECT FROM reactor.in_flight)`)
	o.Recovery = time.Since(healed)
	if o.Recovery > recoveryLimit {
		d.addFinding("after the end of all faults it took %v until every job was published, more than %v", o.Recovery.Round(time.Millisecond), recoveryLimit)
	}
	d.await(ctx, conn, "every shard to have a living owner, and every instance its lanes", 20*time.Second, `
		SELECT (SELECT count(*) FROM reactor.instances) = $1
		   AND (SELECT count(DISTINCT s.owner) FROM reactor.shards s JOIN reactor.instances i ON i.id = s.owner) = least($1, 64)
		   AND (SELECT count(*) FROM reactor.shards s JOIN reactor.instances i ON i.id = s.owner) = 64
		   AND NOT EXISTS (SELECT FROM reactor.instances i WHERE (SELECT count(*) FROM reactor.lanes l WHERE l.owner = i.id) <> $2)`, d.cfg.Instances, lanes)
	stop()
	instances.Wait()
	d.await(ctx, conn, "the instances to leave nothing behind", time.Second, `
		SELECT NOT EXISTS (SELECT FROM reactor.instances) AND NOT EXISTS (SELECT FROM reactor.in_flight)
		   AND NOT EXISTS (SELECT FROM reactor.shards WHERE owner IS NOT NULL)`)
	if err := d.verify(ctx, conn, subscriber, &o); err != nil {
		return o, err
	}
	o.SubscriberReconnects = subscriber.Progress().Reconnects
	o.Findings = append(d.allFindings(), o.Findings...)
	return o, nil
}

// injectFaults makes the faults of the schedule, under load, and returns their descriptions.
func (d *deployment) injectFaults(ctx context.Context) []string {
	events := schedule(d.cfg)
	loading, done := context.WithCancel(ctx)
	var busy sync.WaitGroup
	busy.Go(func() { d.load.run(loading) })
	begun := time.Now()
	var made []string
	for _, e := range events {
		if !deploy.Sleep(ctx, e.at-time.Since(begun)) {
			break
		}
		d.cfg.Logger.Info(e.text)
		made = append(made, e.String())
		busy.Go(func() {
			if err := e.do(ctx, d); err != nil && !errors.Is(err, errBusy) {
				d.cfg.Logger.Debug("a fault could not be made", "fault", e.text, "err", err)
			}
		})
	}
	deploy.Sleep(ctx, d.cfg.Duration-time.Since(begun))
	done()
	busy.Wait()
	d.load.close()
	return made
}

// await waits until a condition in SQL is true. If it does not become true within limit, that is a
// finding.
func (d *deployment) await(ctx context.Context, conn *pgx.Conn, what string, limit time.Duration, sql string, args ...any) {
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		var ok bool
		// Use ctx and not waiting: a query that is interrupted closes the connection.
		err := conn.QueryRow(ctx, sql, args...).Scan(&ok)
		if ok {
			return
		}
		if err != nil && conn.IsClosed() {
			d.addFinding("the connection of the checks broke while they waited for %s: %v", what, err)
			return
		}
		if !deploy.Sleep(waiting, 50*time.Millisecond) {
			d.addFinding("waited %v for %s, without success (%v)%s", limit, what, err, describeStuck(context.WithoutCancel(ctx), conn))
			return
		}
	}
}
