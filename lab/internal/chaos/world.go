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

// world is a deployment: servers, instances, and those who use the same servers.
type world struct {
	cfg         Config
	broker      *stack.Mosquitto
	pooler      *stack.PgBouncer // nil unless there is one
	front       *netfault.Proxy  // to the primary, whichever that is: for load, strangers, judge and pooler
	databaseURL string           // as the instances' user, past the front
	adminURL    string           // as superuser, in the same database, through the front
	instances   []*instance
	load        *load
	ledger      *ledger // nil unless the broker is killed
	settings    []string

	// Held while a server is down, or a fault lasts that must be alone.
	postgresDown, brokerDown, readOnly, poisoning sync.Mutex

	mu         sync.Mutex
	postgres   *stack.Postgres // guarded by mu; the primary
	standby    *stack.Postgres // guarded by mu; nil while there is none
	failovers  int             // guarded by mu
	losses     []span          // guarded by mu; what was done then may be undone
	poisons    []poison        // guarded by mu
	rowsLocked int             // guarded by mu; by lockjob
	findings   []string        // guarded by mu
}

// maxConnections is small, so that it can be exhausted.
const maxConnections = 60

func newWorld(ctx context.Context, cfg Config) (w *world, err error) {
	w = &world{cfg: cfg}
	defer func() {
		if err != nil {
			_ = w.close()
			w = nil
		}
	}()
	// The state is saved at each stop; in between would only cost time.
	broker := stack.MosquittoConfig{Persistence: true, Autosave: time.Hour}
	if cfg.has("lockjob") {
		// Allowed by a pattern: with topics alone Mosquitto 2.0.11 denies a subscriber that has
		// not come back since its restart everything, and the judge is one.
		broker.AccessRules = []string{"topic deny " + refusedTopics + "#", "pattern readwrite #"}
	}
	servers, err := deploy.StartServers(ctx, stack.PostgresConfig{
		Trust: true, Settings: map[string]string{"max_connections": fmt.Sprint(maxConnections)},
	}, broker)
	if err != nil {
		return w, err
	}
	w.postgres, w.broker = servers.Postgres, servers.Mosquitto
	// Not a superuser: those have connections in reserve.
	if err := w.exec(ctx, w.postgres.URL(), "CREATE ROLE app LOGIN REPLICATION", "CREATE DATABASE app OWNER app"); err != nil {
		return w, err
	}
	if w.front, err = netfault.New(w.postgres.URL()); err != nil {
		return w, err
	}
	w.adminURL = w.front.Through(w.postgres.DatabaseURL("app"))
	w.databaseURL = fmt.Sprintf("postgres://app@127.0.0.1:%d/app?sslmode=disable", w.postgres.Port())
	w.settings = surroundings(cfg)
	if err := w.exec(ctx, w.postgres.URL(), w.settings...); err != nil {
		return w, err
	}
	if err := w.migrate(ctx); err != nil {
		return w, err
	}
	if cfg.Pooler != "" {
		// In session mode a pool smaller than all that the instances open would starve one.
		w.pooler, err = stack.StartPgBouncer(ctx, stack.PgBouncerConfig{
			Target: w.postgres, Address: w.front.Addr(), PoolMode: cfg.Pooler, PoolSize: maxConnections - 15,
		})
		if err != nil {
			return w, err
		}
	}
	if cfg.has("failover") {
		if w.standby, err = stack.StartStandby(ctx, w.postgres); err != nil {
			return w, err
		}
	}
	if cfg.has("brokerkill") {
		w.ledger = newLedger()
	}
	for i := range cfg.Instances {
		in, err := newInstance(w, i)
		if err != nil {
			return w, err
		}
		w.instances = append(w.instances, in)
	}
	w.load = &load{world: w}
	return w, nil
}

// migrate brings the schema up to date, with what the feed needs that the run begins with.
func (w *world) migrate(ctx context.Context) error {
	args := []string{"up", "--database-url", w.databaseURL}
	if w.cfg.beginsWithWAL() {
		args = append(args, "--without-triggers")
	}
	code, err := w.runMigrate(ctx, args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("reactor migrate up ended with %d; see migrate.log", code)
	}
	return err
}

// changeFeed has the deployment change over. That it fails, because servers are away, or an
// instance is, is no finding: both feeds stay then.
func (w *world) changeFeed(ctx context.Context, to string) error {
	code, err := w.runMigrate(ctx, "feed", to, "--patience", "10s", "--database-url", w.front.Through(w.databaseURL))
	if err == nil && code != 0 {
		w.cfg.Logger.Debug("the deployment has not changed over", "to", to)
	}
	return err
}

func (w *world) runMigrate(ctx context.Context, args ...string) (code int, err error) {
	log, err := os.OpenFile(w.cfg.Dir+"/migrate.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	p, err := stack.StartProcess(stack.ProcessSpec{
		Path: w.cfg.Program, Args: append([]string{"migrate"}, args...), Env: cli.WithoutFlags(os.Environ()), Stdout: log, Stderr: log,
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

func (w *world) close() error {
	for _, in := range w.instances {
		in.close()
	}
	var errs []error
	if w.broker != nil {
		errs = append(errs, w.broker.Close())
	}
	if w.pooler != nil {
		errs = append(errs, w.pooler.Close())
	}
	if w.front != nil {
		w.front.Close()
	}
	for _, p := range []*stack.Postgres{w.standby, w.postgres} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// found records something that must not be.
func (w *world) found(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.findings = append(w.findings, fmt.Sprintf(format, args...))
}

// heal ends every fault that lasts.
func (w *world) heal(ctx context.Context) error {
	for _, in := range w.instances {
		for _, t := range []*tripwire{in.fromDatabase, in.fromBroker, in.toBroker} {
			t.disarm()
		}
		if err := errors.Join(in.database.Accept(), in.broker.Accept()); err != nil {
			return err
		}
		in.database.Resume()
		in.broker.Resume()
	}
	if err := errors.Join(w.primary().Start(ctx), w.broker.Start(ctx)); err != nil {
		return err
	}
	for _, in := range w.instances { // the instances have to find out by themselves
		for _, p := range append(in.toDatabase(), in.broker) {
			p.ResetServerSide()
		}
	}
	return w.healDatabase(ctx)
}

// healDatabase ends what a fault could not end itself because the server was down.
func (w *world) healDatabase(ctx context.Context) error {
	var errs []error
	if w.cfg.has("readonly") {
		errs = append(errs, w.primary().SetReadOnly(ctx, false), w.primary().SetDatabaseReadOnly(ctx, "app", false))
	}
	if w.cfg.has("rows") {
		errs = append(errs, w.cure(ctx))
	}
	return errors.Join(errs...)
}

// databaseProxies are all ways to the primary.
func (w *world) databaseProxies() []*netfault.Proxy {
	proxies := []*netfault.Proxy{w.front}
	for _, in := range w.instances {
		switch {
		case in.direct != nil: // the pooler goes through the front
			proxies = append(proxies, in.direct)
		default:
			proxies = append(proxies, in.database)
		}
	}
	return proxies
}

// restart stops a server, unless somebody else is at it, and starts it again.
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

// terminateBackends ends a share of the instances' and the strangers' connections.
func (w *world) terminateBackends(ctx context.Context, share float64) error {
	return w.exec(ctx, w.adminURL, fmt.Sprintf(
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND random() < %f", share))
}

// holdTransaction leaves a transaction idle after a statement.
func (w *world) holdTransaction(ctx context.Context, hold time.Duration, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, w.adminURL)
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

// exhaustConnections takes every connection that ordinary users can have.
func (w *world) exhaustConnections(ctx context.Context, hold time.Duration) error {
	var conns []*pgx.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close(context.WithoutCancel(ctx))
		}
	}()
	for ctx.Err() == nil && len(conns) < maxConnections {
		c, err := pgx.Connect(ctx, w.databaseURL)
		if err != nil {
			break // full, or down
		}
		conns = append(conns, c)
	}
	deploy.Sleep(ctx, hold)
	return nil
}

// exec runs statements on a connection of their own.
func (w *world) exec(ctx context.Context, url string, statements ...string) error {
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

// allFindings returns what was found so far.
func (w *world) allFindings() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.findings)
}
