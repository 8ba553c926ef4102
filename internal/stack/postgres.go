package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresConfig says what server to start. The zero value is a good server for
// tests and demonstrations.
type PostgresConfig struct {
	// Dir is where the server lives: data, log and socket. It must be absent or
	// empty; Close removes it. Defaults to a new folder under the system's
	// temporary folder.
	Dir string

	// Port on 127.0.0.1. Defaults to a free one.
	Port int

	// BinDir holds the programs postgres and initdb. Defaults to what
	// FindPostgres finds.
	BinDir string

	// Settings of postgresql.conf, on top of ours.
	Settings map[string]string

	// Durable keeps fsync and full_page_writes on, for benchmarks. Without it a
	// commit survives a kill of the server but not a crash of the machine.
	Durable bool

	// Trust lets every user of this machine in as superuser, without a password.
	// It saves the milliseconds of SCRAM for each connection of a test.
	Trust bool

	// Logger gets progress lines. Defaults to none.
	Logger *slog.Logger
}

// Postgres is a PostgreSQL server of ours. Its methods may be called from any goroutine.
type Postgres struct {
	server
	cfg      PostgresConfig
	bin      PostgresBinaries
	password string
}

// StartPostgres creates a server and returns when it accepts connections. Without
// a deadline in ctx, a minute is allowed. When it fails nothing is left behind and
// the error carries the last lines of the server's log.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	p, err := newPostgres(cfg)
	if err == nil {
		err = p.open(ctx, cfg.Dir, cfg.Port, p.initPostgres, superuser)
	}
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	return p, nil
}

func newPostgres(cfg PostgresConfig) (*Postgres, error) {
	if cfg.Port < 0 || cfg.Port > 65535 {
		return nil, fmt.Errorf("config: Port: %d is not a port", cfg.Port)
	}
	find := FindPostgres
	if cfg.BinDir != "" {
		find = func() (PostgresBinaries, error) { return InspectPostgres(cfg.BinDir) }
	}
	bin, err := find()
	if err != nil {
		return nil, err
	}
	p := &Postgres{cfg: cfg, bin: bin}
	p.server = server{name: "postgres", kind: p, logger: cfg.Logger}
	return p, nil
}

// URL connects the superuser to the database "postgres". It contains the password.
func (p *Postgres) URL() string { return p.DatabaseURL("postgres") }

// DatabaseURL is URL for another database of this server.
func (p *Postgres) DatabaseURL(name string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User(superuser), Host: address(p.Port()),
		Path: "/" + name, RawQuery: "sslmode=disable",
	}
	if p.password != "" {
		u.User = url.UserPassword(superuser, p.password)
	}
	return u.String()
}

// Major is the server's major version.
func (p *Postgres) Major() int { return p.bin.Major }

// Restart is Stop and Start.
func (p *Postgres) Restart(ctx context.Context) error {
	return errors.Join(p.Stop(), p.Start(ctx))
}

// Stop is PostgreSQL's fast shutdown: sessions are ended, all is written, nothing
// needs recovery. An error means that it took too long and was killed.
func (p *Postgres) Stop() error { return p.stop(syscall.SIGINT, 20*time.Second) }

// StopImmediate is PostgreSQL's immediate shutdown: no session says goodbye, and
// the next start recovers from the WAL.
func (p *Postgres) StopImmediate() error { return p.stop(syscall.SIGQUIT, stopGrace) }

// Close stops the server and removes its folder. Closing twice is no error.
func (p *Postgres) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed && !p.closed {
		// Only the next postmaster removes the shared memory of a killed one.
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		if err := p.start(ctx); err != nil {
			p.logger.Warn("shared memory of a killed postgres may be left", "error", err)
		}
		cancel()
	}
	// Nobody will read its data again: no need for a last checkpoint.
	return p.close(syscall.SIGQUIT)
}

func (p *Postgres) command() ProcessSpec {
	return ProcessSpec{
		Path: filepath.Join(p.bin.Dir, "postgres"),
		Args: []string{"-D", p.dataDir(), "-p", strconv.Itoa(p.port)},

		DeathSignal: syscall.SIGQUIT, // an immediate shutdown, which takes its children along
	}
}

// configure has nothing to write: the port is an argument.
func (p *Postgres) configure() error { return nil }

// ask connects, and makes sure that it is our server that answers.
func (p *Postgres) ask(ctx context.Context) error {
	cfg, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		return err
	}
	cfg.Host, cfg.Port = loopback, uint16(p.port)
	cfg.User, cfg.Password, cfg.Database = superuser, p.password, superuser
	cfg.Fallbacks = nil
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var dir string
	if err := conn.QueryRow(ctx, "SHOW data_directory").Scan(&dir); err != nil {
		return err
	}
	if dir != p.dataDir() {
		return errPortLost
	}
	return nil
}

// kill ends the postmaster and all its children.
//
// A killed postmaster's children would notice by themselves, but a busy one only
// after its statement, and until then the server could not be started again. So
// the postmaster is frozen, that it forks no more, and they go first.
func (p *Postgres) kill() error {
	if !p.running() {
		return nil
	}
	if err := p.proc.Freeze(); err != nil {
		return fmt.Errorf("kill postgres: %w", err)
	}
	children := childrenOf(p.proc.Pid())
	for _, child := range children {
		// Children of a frozen parent: nobody reaps them, so no id is reused.
		_ = signalProcess(child, syscall.SIGKILL)
	}
	return errors.Join(p.server.kill(), awaitGone(children, killGrace))
}

// awaitGone waits for processes that are not our children, so that there is
// nothing to wait on but the process table.
func awaitGone(pids []int, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for _, pid := range pids {
		for alive(pid) {
			if time.Now().After(deadline) {
				return fmt.Errorf("process %d survives SIGKILL", pid)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}
