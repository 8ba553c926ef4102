package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// deployment is the servers, the instances, and the other clients of the servers.
type deployment struct {
	cfg         Config
	broker      *stack.Mosquitto
	pooler      *stack.PgBouncer // nil without Config.Pooler
	front       *netfault.Proxy  // to the current primary, for the load, the faults, the checks and the pooler
	databaseURL string           // for the instances' user, not through the front
	adminURL    string           // for the superuser, in the same database, through the front
	instances   []*instance
	load        *load
	trace       *packetTrace // nil without the fault brokerkill
	settings    []string

	// Held while a server is down, or during a fault that must not overlap with another of its kind.
	postgresDown, brokerDown, readOnly, blocking sync.Mutex

	mu         sync.Mutex
	postgres   *stack.Postgres // guarded by mu; the primary
	standby    *stack.Postgres // guarded by mu; nil while there is none
	failovers  int             // guarded by mu
	losses     []span          // guarded by mu; times whose commits may be lost
	blocked    []blockedRows   // guarded by mu
	rowsLocked int             // guarded by mu; by the fault lockjob
	findings   []string        // guarded by mu
}

// maxConnections is the server's limit. It is small, so that the fault connections can reach it.
const maxConnections = 60

func newDeployment(ctx context.Context, cfg Config) (d *deployment, err error) {
	d = &deployment{cfg: cfg}
	defer func() {
		if err != nil {
			_ = d.close()
			d = nil
		}
	}()
	// The broker saves its state at each stop. More saves would only take time. After a restart it
	// restores no more than MaxInflight messages that are under way to the subscriber, and sends
	// all others again (docs/delivery.md, Brokers). Without a limit, with 65535, it restores none.
	broker := stack.MosquittoConfig{Persistence: true, Autosave: time.Hour, MaxInflight: 65534}
	if cfg.has("lockjob") {
		// Allow by a pattern. With "topic" rules only, Mosquitto 2.0.11 drops after its restart all
		// messages for a subscriber that has not connected again yet, such as ours.
		broker.AccessRules = []string{"topic deny " + refusedTopics + "#", "pattern readwrite #"}
	}
	servers, err := deploy.StartServers(ctx, stack.PostgresConfig{
		Trust: true, Settings: map[string]string{"max_connections": fmt.Sprint(maxConnections)},
	}, broker)
	if err != nil {
		return d, err
	}
	d.postgres, d.broker = servers.Postgres, servers.Mosquitto
	// The role is not a superuser, because some connections are reserved for superusers.
	if err := d.exec(ctx, d.postgres.URL(), "CREATE ROLE app LOGIN REPLICATION", "CREATE DATABASE app OWNER app"); err != nil {
		return d, err
	}
	if d.front, err = netfault.New(d.postgres.URL()); err != nil {
		return d, err
	}
	d.adminURL = d.front.Through(d.postgres.DatabaseURL("app"))
	d.databaseURL = fmt.Sprintf("postgres://app@127.0.0.1:%d/app?sslmode=disable", d.postgres.Port())
	d.settings = roleSettings(cfg)
	if err := d.exec(ctx, d.postgres.URL(), d.settings...); err != nil {
		return d, err
	}
	if err := d.migrate(ctx); err != nil {
		return d, err
	}
	if cfg.Pooler != "" {
		// In session mode the pool must be large enough for all connections of the instances:
		// otherwise an instance would wait for ever.
		d.pooler, err = stack.StartPgBouncer(ctx, stack.PgBouncerConfig{
			Target: d.postgres, Address: d.front.Addr(), PoolMode: cfg.Pooler, PoolSize: maxConnections - 15,
		})
		if err != nil {
			return d, err
		}
	}
	if cfg.has("failover") {
		if d.standby, err = stack.StartStandby(ctx, d.postgres); err != nil {
			return d, err
		}
	}
	if cfg.has("brokerkill") {
		d.trace = newPacketTrace()
	}
	for i := range cfg.Instances {
		in, err := newInstance(d, i)
		if err != nil {
			return d, err
		}
		d.instances = append(d.instances, in)
	}
	d.load = &load{deployment: d}
	return d, nil
}

// migrate applies the schema. It leaves out the triggers if the run begins with the feed wal.
func (d *deployment) migrate(ctx context.Context) error {
	args := []string{"up", "--database-url", d.databaseURL}
	if d.cfg.beginsWithWAL() {
		args = append(args, "--without-triggers")
	}
	code, err := d.runMigrate(ctx, args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("reactor migrate up ended with %d; see migrate.log", code)
	}
	return err
}

// changeFeed changes the deployment over to another feed. If that fails because a server or an
// instance is down, it is not a finding: both feeds stay then.
func (d *deployment) changeFeed(ctx context.Context, to string) error {
	code, err := d.runMigrate(ctx, "feed", to, "--patience", "10s", "--database-url", d.front.Through(d.databaseURL))
	if err == nil && code != 0 {
		d.cfg.Logger.Debug("the deployment has not changed over", "to", to)
	}
	return err
}

func (d *deployment) runMigrate(ctx context.Context, args ...string) (code int, err error) {
	log, err := os.OpenFile(d.cfg.Dir+"/migrate.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	p, err := stack.StartProcess(stack.ProcessSpec{
		Path: d.cfg.Program, Args: append([]string{"migrate"}, args...), Env: cli.WithoutFlags(os.Environ()), Stdout: log, Stderr: log,
	})
	if err != nil {
		return 0, err
	}
	if err := p.Wait(ctx); err != nil {
		_ = p.Signal(syscall.SIGKILL)
		return 0, err
	}
	return p.ExitCode(), nil
}

func (d *deployment) close() error {
	for _, in := range d.instances {
		in.close()
	}
	var errs []error
	if d.broker != nil {
		errs = append(errs, d.broker.Close())
	}
	if d.pooler != nil {
		errs = append(errs, d.pooler.Close())
	}
	if d.front != nil {
		d.front.Close()
	}
	for _, p := range []*stack.Postgres{d.standby, d.postgres} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// addFinding records a broken promise.
func (d *deployment) addFinding(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.findings = append(d.findings, fmt.Sprintf(format, args...))
}

// heal ends all faults that have not ended themselves.
func (d *deployment) heal(ctx context.Context) error {
	for _, in := range d.instances {
		for _, t := range []*packetBreaker{in.fromDatabase, in.fromBroker, in.toBroker} {
			t.clear()
		}
		if err := errors.Join(in.database.Accept(), in.broker.Accept()); err != nil {
			return err
		}
		in.database.Resume()
		in.broker.Resume()
	}
	if err := errors.Join(d.primary().Start(ctx), d.broker.Start(ctx)); err != nil {
		return err
	}
	for _, in := range d.instances { // the instances have to detect their black holes themselves
		for _, p := range append(in.toDatabase(), in.broker) {
			p.ResetServerSide()
		}
	}
	return d.healDatabase(ctx)
}

// healDatabase ends faults that could not end themselves because the server was down.
func (d *deployment) healDatabase(ctx context.Context) error {
	var errs []error
	if d.cfg.has("readonly") {
		errs = append(errs, d.primary().SetReadOnly(ctx, false), d.primary().SetDatabaseReadOnly(ctx, "app", false))
	}
	if d.cfg.has("rows") {
		errs = append(errs, d.unblockRows(ctx))
	}
	return errors.Join(errs...)
}

// databaseProxies returns all proxies to the primary.
func (d *deployment) databaseProxies() []*netfault.Proxy {
	proxies := []*netfault.Proxy{d.front}
	for _, in := range d.instances {
		switch {
		case in.direct != nil: // the pooler goes through the front
			proxies = append(proxies, in.direct)
		default:
			proxies = append(proxies, in.database)
		}
	}
	return proxies
}

// restart stops a server and starts it again after a pause. It returns errBusy if another fault
// has stopped the server.
func restart(ctx context.Context, down *sync.Mutex, stop func() error, start func(context.Context) error, pause time.Duration) error {
	if !down.TryLock() {
		return errBusy
	}
	defer down.Unlock()
	if err := stop(); err != nil {
		return err
	}
	deploy.Sleep(ctx, pause)
	return start(context.WithoutCancel(ctx))
}

// terminateBackends ends a random share of the connections of the instances' role.
func (d *deployment) terminateBackends(ctx context.Context, share float64) error {
	return d.exec(ctx, d.adminURL, fmt.Sprintf(
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND random() < %f", share))
}

// holdTransaction executes a statement and leaves its transaction idle for a while.
func (d *deployment) holdTransaction(ctx context.Context, hold time.Duration, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, d.adminURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, sql, args...); err != nil {
		return err
	}
	deploy.Sleep(ctx, hold)
	return tx.Rollback(context.WithoutCancel(ctx))
}

// exhaustConnections opens all connections that are left for ordinary users.
func (d *deployment) exhaustConnections(ctx context.Context, hold time.Duration) error {
	var conns []*pgx.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close(context.WithoutCancel(ctx))
		}
	}()
	for ctx.Err() == nil && len(conns) < maxConnections {
		c, err := pgx.Connect(ctx, d.databaseURL)
		if err != nil {
			break // no connection is left, or the server is down
		}
		conns = append(conns, c)
	}
	deploy.Sleep(ctx, hold)
	return nil
}

// exec runs statements on a new connection.
func (d *deployment) exec(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// allFindings returns the findings so far.
func (d *deployment) allFindings() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.findings)
}
