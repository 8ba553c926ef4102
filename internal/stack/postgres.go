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

// PostgresConfig configures a server. The zero value suits tests and demonstrations.
type PostgresConfig struct {
	// Dir is the folder of data, log and socket. It must be absent or empty; Close
	// removes it. Defaults to a new folder under the system's temporary folder.
	Dir string

	// Port on 127.0.0.1. Defaults to a free one.
	Port int

	// BinDir is the folder of the programs postgres and initdb. Defaults to the result of
	// FindPostgres.
	BinDir string

	// Settings are added to postgresql.conf. They override ours.
	Settings map[string]string

	// Durable keeps fsync and full_page_writes on, for benchmarks. Without it a
	// commit survives a kill of the server but not a crash of the machine.
	Durable bool

	// Trust lets every user of this machine connect as superuser without a password.
	// It saves the milliseconds that SCRAM takes for each connection of a test.
	Trust bool

	// Logger gets progress lines. Defaults to none.
	Logger *slog.Logger
}

// Postgres is a PostgreSQL server that this process has started. Its methods may be called
// from any goroutine.
type Postgres struct {
	server
	cfg      PostgresConfig
	bin      PostgresBinaries
	password string
}

// StartPostgres creates a server and returns when it accepts connections. If ctx has no
// deadline, the timeout is a minute. After an error nothing is left, and the error contains
// the last lines of the server's log.
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

// URL is for the superuser and the database "postgres". It contains the password.
func (p *Postgres) URL() string { return p.DatabaseURL("postgres") }

// DatabaseURL is like URL, for another database of this server.
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

// Restart calls Stop and Start.
func (p *Postgres) Restart(ctx context.Context) error {
	return errors.Join(p.Stop(), p.Start(ctx))
}

// Stop is PostgreSQL's fast shutdown: it ends the sessions and writes everything to disk, so
// the next start needs no recovery. An error means that the shutdown took too long and the
// server was killed.
func (p *Postgres) Stop() error { return p.stop(syscall.SIGINT, 20*time.Second) }

// StopImmediate is PostgreSQL's immediate shutdown: it aborts the sessions, and the next
// start recovers from the WAL.
func (p *Postgres) StopImmediate() error { return p.stop(syscall.SIGQUIT, stopGrace) }

// Close stops the server and removes its folder. Closing twice is not an error.
func (p *Postgres) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed && !p.closed {
		// Only the next postmaster of this data directory removes the shared memory of a
		// killed one. So start the server once more.
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		if err := p.start(ctx); err != nil {
			p.logger.Warn("shared memory of a killed postgres may be left", "error", err)
		}
		cancel()
	}
	// The data will not be read again, so a last checkpoint is not needed.
	return p.close(syscall.SIGQUIT)
}

func (p *Postgres) command() ProcessSpec {
	return ProcessSpec{
		Path: filepath.Join(p.bin.Dir, "postgres"),
		Args: []string{"-D", p.dataDir(), "-p", strconv.Itoa(p.port)},

		DeathSignal: syscall.SIGQUIT, // an immediate shutdown, which also ends the children
	}
}

// configure writes nothing, because the port is an argument.
func (p *Postgres) configure() error { return nil }

// ping connects, and checks that it is our server that answers.
func (p *Postgres) ping(ctx context.Context) error {
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
// Children detect themselves that their postmaster has been killed, but a busy one only
// after its statement. Until then the server could not be started again. So kill freezes the
// postmaster, so that it forks no more, then kills the children, and then the postmaster.
func (p *Postgres) kill() error {
	if !p.running() {
		return nil
	}
	if err := p.proc.Freeze(); err != nil {
		return fmt.Errorf("kill postgres: %w", err)
	}
	children := childrenOf(p.proc.Pid())
	for _, child := range children {
		// A frozen parent does not reap its children, so their process ids are not reused.
		_ = signalProcess(child, syscall.SIGKILL)
	}
	return errors.Join(p.server.kill(), awaitGone(children, killGrace))
}

// awaitGone waits until processes have ended. They are not our children, so it has to poll
// the process table.
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
