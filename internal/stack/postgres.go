package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
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
	cfg      PostgresConfig
	log      *slog.Logger
	bin      PostgresBinaries
	who      account
	dir      string
	password string

	mu     sync.Mutex // guards what follows, and makes starts and stops take turns
	port   int
	proc   *Process // nil before the first start; then the last process, perhaps gone
	killed bool     // the last process had no chance to remove its shared memory
	closed bool
}

// StartPostgres creates a server and returns when it accepts connections. Without
// a deadline in ctx, a minute is allowed. When it fails nothing is left behind and
// the error carries the last lines of the server's log.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	p := &Postgres{cfg: cfg, log: cfg.Logger}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Port < 0 || cfg.Port > 65535 {
		return nil, fmt.Errorf("start postgres: Port: %d is not a port", cfg.Port)
	}
	var err error
	if p.bin, err = p.programs(); err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	if p.who, err = unprivileged("postgres"); err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	if p.dir, err = prepareDir(cfg.Dir, "reactor-postgres-", p.who); err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	if err = p.initPostgres(ctx); err == nil {
		err = p.firstStart(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start postgres: %w", err), p.Close())
	}
	p.log.Info("postgres started", "major", p.bin.Major, "port", p.port, "pid", p.Pid(), "dir", p.dir)
	return p, nil
}

func (p *Postgres) programs() (PostgresBinaries, error) {
	if p.cfg.BinDir != "" {
		return InspectPostgres(p.cfg.BinDir)
	}
	return FindPostgres()
}

// firstStart finds the port.
func (p *Postgres) firstStart(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return onFreePort(ctx, p.cfg.Port, func(port int) error {
		p.port = port
		return p.start(ctx)
	})
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

// Port on 127.0.0.1. It stays the same over restarts.
func (p *Postgres) Port() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.port
}

// Pid of the postmaster, the last one if it does not run.
func (p *Postgres) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return 0
	}
	return p.proc.Pid()
}

// Dir is the server's directory.
func (p *Postgres) Dir() string { return p.dir }

// Major is the server's major version.
func (p *Postgres) Major() int { return p.bin.Major }

// LogPath is the file of the server's log, over all its starts.
func (p *Postgres) LogPath() string { return filepath.Join(p.dir, "postgres.log") }

// Start starts a stopped or killed server on its port and data, and returns when
// it accepts connections. A running server is left alone.
func (p *Postgres) Start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("start postgres: it is closed")
	}
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	if err := p.start(ctx); err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	return nil
}

// Restart is Stop and Start.
func (p *Postgres) Restart(ctx context.Context) error {
	return errors.Join(p.Stop(), p.Start(ctx))
}

// Stop is PostgreSQL's fast shutdown: sessions are ended, all is written, nothing
// needs recovery. An error means that it took too long and was ended by force.
func (p *Postgres) Stop() error { return p.end(syscall.SIGINT, 20*time.Second) }

// StopImmediate is PostgreSQL's immediate shutdown: no session says goodbye, and
// the next start recovers from the WAL.
func (p *Postgres) StopImmediate() error { return p.end(syscall.SIGQUIT, 10*time.Second) }

// Kill ends the postmaster and all its children with SIGKILL, and returns when
// they are gone.
//
// A killed postmaster's children would notice by themselves, but a busy one only
// after its statement, and until then the server could not be started again. So
// the postmaster is frozen, that it forks no more, and they go first.
func (p *Postgres) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kill()
}

// Close stops the server and removes its directory. Closing twice is no error.
func (p *Postgres) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	if p.killed {
		// Only the next postmaster removes the shared memory of a killed one.
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		if err := p.start(ctx); err != nil {
			p.log.Warn("shared memory of a killed postgres may be left", "error", err)
		}
		cancel()
	}
	// Nobody will read its data again: no need for a last checkpoint.
	err := p.endLocked(syscall.SIGQUIT, 10*time.Second)
	return errors.Join(err, os.RemoveAll(p.dir))
}

func (p *Postgres) running() bool {
	if p.proc == nil {
		return false
	}
	select {
	case <-p.proc.Done():
		return false
	default:
		return true
	}
}

// start runs the server on p.port. Caller holds p.mu.
func (p *Postgres) start(ctx context.Context) error {
	if p.running() {
		return nil
	}
	log, err := os.OpenFile(p.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	proc, err := StartProcess(ProcessSpec{
		Path: filepath.Join(p.bin.Dir, "postgres"),
		Args: []string{"-D", p.dataDir(), "-p", strconv.Itoa(p.port)},
		Dir:  p.dir, Env: serverEnv(), Credential: p.who.cred,
		Stdout: log, Stderr: log,
		DeathSignal: syscall.SIGQUIT, // an immediate shutdown, which takes its children along
	})
	if err != nil {
		return err
	}
	p.proc, p.killed = proc, false
	if err := awaitReady(ctx, proc, p.ask); err != nil {
		_ = p.endLocked(syscall.SIGQUIT, 5*time.Second)
		return fmt.Errorf("on port %d: %w; the last lines of its log:\n%s", p.port, err, logTail(p.LogPath()))
	}
	return nil
}

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

func (p *Postgres) end(sig syscall.Signal, grace time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.endLocked(sig, grace)
}

// endLocked sends sig and insists when that does not help. Caller holds p.mu.
func (p *Postgres) endLocked(sig syscall.Signal, grace time.Duration) error {
	if !p.running() {
		return nil
	}
	if err := p.proc.Signal(sig); err != nil {
		return fmt.Errorf("stop postgres: %w", err)
	}
	if p.proc.goneWithin(grace) {
		return nil
	}
	forced := fmt.Errorf("postgres did not stop within %s of %s", grace, sig)
	if sig != syscall.SIGQUIT {
		_ = p.proc.Signal(syscall.SIGQUIT)
		if p.proc.goneWithin(5 * time.Second) {
			return forced
		}
	}
	return errors.Join(forced, p.kill())
}

// kill: see Kill. Caller holds p.mu.
func (p *Postgres) kill() error {
	if !p.running() {
		return nil
	}
	p.killed = true
	pid := p.proc.Pid()
	if err := p.proc.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("kill postgres: %w", err)
	}
	children := childrenOf(pid)
	for _, child := range children {
		// Children of a frozen parent: nobody reaps them, so no id is reused.
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	if err := p.proc.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill postgres: %w", err)
	}
	if !p.proc.goneWithin(10 * time.Second) {
		return fmt.Errorf("kill postgres: process %d survives SIGKILL", pid)
	}
	return awaitGone(children, 10*time.Second)
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
