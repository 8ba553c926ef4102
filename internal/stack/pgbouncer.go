package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrPgBouncerNotFound: no PgBouncer is installed.
var ErrPgBouncerNotFound = errors.New("no pgbouncer found: install it (Debian, Ubuntu: apt-get install pgbouncer)")

// Modes of a pool: what a client has a server connection for.
const (
	PoolSession     = "session"     // until it disconnects
	PoolTransaction = "transaction" // a transaction
	PoolStatement   = "statement"   // a statement; transactions of several are refused
)

// PgBouncerConfig says what pooler to start.
type PgBouncerConfig struct {
	// Target is the server behind it. Its databases and roles are all let through.
	Target *Postgres

	// Address of the server, host:port. Defaults to Target's own; a proxy's puts a fault
	// between the two.
	Address string

	// PoolMode defaults to PoolTransaction.
	PoolMode string

	// PoolSize is default_pool_size, the most server connections for a pair of database
	// and role. Defaults to 20, as PgBouncer does.
	PoolSize int

	// Dir is where it lives: configuration and log. It must be absent or empty; Close
	// removes it. Defaults to a new folder under the system's temporary folder.
	Dir string

	// Port on 127.0.0.1. Defaults to a free one.
	Port int

	// Binary is the program. Defaults to what FindPgBouncer finds.
	Binary string

	// ExtraLines of the section [pgbouncer].
	ExtraLines []string

	// Logger gets progress lines. Defaults to none.
	Logger *slog.Logger
}

func (c PgBouncerConfig) withDefaults() PgBouncerConfig {
	if c.PoolMode == "" {
		c.PoolMode = PoolTransaction
	}
	if c.PoolSize == 0 {
		c.PoolSize = 20
	}
	if c.Address == "" && c.Target != nil {
		c.Address = address(c.Target.Port())
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c PgBouncerConfig) validate() error {
	switch {
	case c.Target == nil:
		return errors.New("config: Target: missing")
	case c.PoolMode != PoolSession && c.PoolMode != PoolTransaction && c.PoolMode != PoolStatement:
		return fmt.Errorf("config: PoolMode: there is no mode %q", c.PoolMode)
	case c.PoolSize < 1:
		return fmt.Errorf("config: PoolSize: %d is less than 1", c.PoolSize)
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("config: Port: %d is not a port", c.Port)
	}
	return nil
}

// PgBouncer is a pooler of ours before a PostgreSQL of ours. Its methods may be called
// from any goroutine.
//
// Passwords are those of the server: it looks them up there (auth_query) for every role.
type PgBouncer struct {
	cfg    PgBouncerConfig
	log    *slog.Logger
	binary string
	who    account
	dir    string

	mu     sync.Mutex // guards what follows, and makes starts and stops take turns
	port   int
	proc   *Process // nil before the first start; then the last process, perhaps gone
	closed bool
}

// FindPgBouncer returns the path of an installed pgbouncer, or ErrPgBouncerNotFound.
func FindPgBouncer() (string, error) {
	path := lookProgram("pgbouncer", "/usr/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")
	if path == "" {
		return "", ErrPgBouncerNotFound
	}
	return path, nil
}

// StartPgBouncer starts a pooler and returns when a query gets through it. Without a
// deadline in ctx, a minute is allowed. When it fails nothing is left behind and the
// error carries the last lines of its log.
func StartPgBouncer(ctx context.Context, cfg PgBouncerConfig) (*PgBouncer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("start pgbouncer: %w", err)
	}
	b := &PgBouncer{cfg: cfg, log: cfg.Logger, binary: cfg.Binary}
	var err error
	if b.binary == "" {
		b.binary, err = FindPgBouncer()
	} else {
		_, err = os.Stat(b.binary)
	}
	if err != nil {
		return nil, fmt.Errorf("start pgbouncer: %w", err)
	}
	// It refuses to run as root.
	if b.who, err = unprivileged("postgres"); err != nil {
		return nil, fmt.Errorf("start pgbouncer: %w", err)
	}
	if b.dir, err = prepareDir(cfg.Dir, "reactor-pgbouncer-", b.who); err != nil {
		return nil, fmt.Errorf("start pgbouncer: %w", err)
	}
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	if err := b.firstStart(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start pgbouncer: %w", err), b.Close())
	}
	b.log.Info("pgbouncer started", "port", b.port, "pid", b.Pid(), "dir", b.dir, "pool_mode", cfg.PoolMode)
	return b, nil
}

// firstStart finds the port.
func (b *PgBouncer) firstStart(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return onFreePort(ctx, b.cfg.Port, func(port int) error {
		b.port = port
		if err := b.writeConfig(); err != nil {
			return err
		}
		return b.start(ctx)
	})
}

// URL connects Target's superuser, through the pooler, to the database "postgres".
func (b *PgBouncer) URL() string { return b.DatabaseURL(superuser) }

// DatabaseURL is URL for another database of Target; "pgbouncer" is the pooler's own
// console, for SHOW POOLS and the like, with simple queries only.
func (b *PgBouncer) DatabaseURL(name string) string {
	u, err := url.Parse(b.cfg.Target.DatabaseURL(name))
	if err != nil {
		panic("stack: Postgres.DatabaseURL is not a URL")
	}
	u.Host = address(b.Port())
	return u.String()
}

// Port on 127.0.0.1. It stays the same over restarts.
func (b *PgBouncer) Port() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.port
}

// Pid of the pooler, the last one if it does not run.
func (b *PgBouncer) Pid() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.proc == nil {
		return 0
	}
	return b.proc.Pid()
}

// Dir is the pooler's directory.
func (b *PgBouncer) Dir() string { return b.dir }

// LogPath is the file of the pooler's log, over all its starts.
func (b *PgBouncer) LogPath() string { return filepath.Join(b.dir, "pgbouncer.log") }

// Start starts a stopped pooler on its port. A running one is left alone.
func (b *PgBouncer) Start(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errors.New("start pgbouncer: it is closed")
	}
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	if err := b.start(ctx); err != nil {
		return fmt.Errorf("start pgbouncer: %w", err)
	}
	return nil
}

// Stop ends the pooler at once, with all connections through it (SIGTERM).
func (b *PgBouncer) Stop() error { return b.end(syscall.SIGTERM) }

// Kill ends the pooler with SIGKILL and returns when it is gone.
func (b *PgBouncer) Kill() error { return b.end(syscall.SIGKILL) }

// Close stops the pooler and removes its directory. Closing twice is no error.
func (b *PgBouncer) Close() error {
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	if closed {
		return nil
	}
	return errors.Join(b.end(syscall.SIGTERM), os.RemoveAll(b.dir))
}

// start runs the pooler on b.port. Caller holds b.mu.
func (b *PgBouncer) start(ctx context.Context) error {
	if b.running() {
		return nil
	}
	log, err := os.OpenFile(b.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	proc, err := StartProcess(ProcessSpec{
		Path: b.binary, Args: []string{b.configPath()},
		Dir: b.dir, Env: serverEnv(), Credential: b.who.cred, Stdout: log, Stderr: log,
	})
	if err != nil {
		return err
	}
	b.proc = proc
	if err := awaitReady(ctx, proc, b.ask); err != nil {
		_ = b.endLocked(syscall.SIGKILL)
		return fmt.Errorf("on port %d: %w; the last lines of its log:\n%s", b.port, err, logTail(b.LogPath()))
	}
	return nil
}

func (b *PgBouncer) running() bool {
	if b.proc == nil {
		return false
	}
	select {
	case <-b.proc.Done():
		return false
	default:
		return true
	}
}

func (b *PgBouncer) end(sig syscall.Signal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.endLocked(sig)
}

// endLocked: caller holds b.mu.
func (b *PgBouncer) endLocked(sig syscall.Signal) error {
	if !b.running() {
		return nil
	}
	if err := b.proc.Signal(sig); err != nil {
		return fmt.Errorf("stop pgbouncer: %w", err)
	}
	const grace = 10 * time.Second
	if b.proc.goneWithin(grace) {
		return nil
	}
	err := fmt.Errorf("pgbouncer did not stop within %s of %s", grace, sig)
	if sigErr := b.proc.Signal(syscall.SIGKILL); sigErr != nil || !b.proc.goneWithin(grace) {
		return errors.Join(err, sigErr, fmt.Errorf("process %d survives SIGKILL", b.proc.Pid()))
	}
	return err
}

// ask makes sure that it is Target who answers through it.
func (b *PgBouncer) ask(ctx context.Context) error {
	cfg, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		return err
	}
	cfg.Host, cfg.Port = loopback, uint16(b.port)
	cfg.User, cfg.Password, cfg.Database = superuser, b.cfg.Target.password, superuser
	cfg.Fallbacks = nil
	// Named statements do not survive a change of the server connection.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var dir string
	if err := conn.QueryRow(ctx, "SHOW data_directory").Scan(&dir); err != nil {
		return err
	}
	if dir != b.cfg.Target.dataDir() {
		return errPortLost
	}
	return nil
}

func (b *PgBouncer) configPath() string { return filepath.Join(b.dir, "pgbouncer.ini") }
func (b *PgBouncer) usersPath() string  { return filepath.Join(b.dir, "users.txt") }

func (b *PgBouncer) writeConfig() error {
	host, port, err := net.SplitHostPort(b.cfg.Address)
	if err != nil {
		return fmt.Errorf("config: Address: %w", err)
	}
	authentication := "scram-sha-256"
	if b.cfg.Target.cfg.Trust {
		authentication = "trust"
	}
	lines := []string{
		"; Written by reactor",
		"[databases]",
		fmt.Sprintf("* = host=%s port=%s auth_user=%s", host, port, superuser),
		"[pgbouncer]",
		"listen_addr = " + loopback,
		"listen_port = " + strconv.Itoa(b.port),
		"unix_socket_dir =",
		"auth_type = " + authentication,
		"auth_file = " + b.usersPath(),
		// Roles that come and go with the tests, some without a password.
		"auth_query = SELECT usename, coalesce(passwd, '') FROM pg_catalog.pg_shadow WHERE usename = $1",
		"admin_users = " + superuser,
		"pool_mode = " + b.cfg.PoolMode,
		"default_pool_size = " + strconv.Itoa(b.cfg.PoolSize),
		"max_client_conn = 1000",
	}
	lines = append(lines, b.cfg.ExtraLines...)
	password := strings.ReplaceAll(b.cfg.Target.password, `"`, `""`)
	return errors.Join(
		b.writeFile(b.usersPath(), fmt.Sprintf("%q \"%s\"\n", superuser, password)),
		b.writeFile(b.configPath(), strings.Join(lines, "\n")+"\n"))
}

func (b *PgBouncer) writeFile(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return b.who.own(path)
}
