package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// ErrPgBouncerNotFound is the error if no PgBouncer is installed.
var ErrPgBouncerNotFound = errors.New("no pgbouncer found: install it (Debian, Ubuntu: apt-get install pgbouncer)")

// Modes of a pool: how long a client keeps a server connection.
const (
	PoolSession     = "session"     // until the client disconnects
	PoolTransaction = "transaction" // for a transaction
	PoolStatement   = "statement"   // for a statement; transactions of several statements are refused
)

// PgBouncerConfig configures a pooler.
type PgBouncerConfig struct {
	// Target is the server behind the pooler. All its databases and roles can be used.
	Target *Postgres

	// Address is the address of the server, host:port. Defaults to that of Target. With the
	// address of a proxy, faults can be made between pooler and server.
	Address string

	// PoolMode defaults to PoolTransaction.
	PoolMode string

	// PoolSize is default_pool_size, the maximum number of server connections for each pair
	// of database and role. Defaults to 20, like PgBouncer's own default.
	PoolSize int

	// Dir is the folder of configuration and log. It must be absent or empty; Close removes
	// it. Defaults to a new folder under the system's temporary folder.
	Dir string

	// Port on 127.0.0.1. Defaults to a free one.
	Port int

	// Binary is the path of the program. Defaults to the result of FindPgBouncer.
	Binary string

	// ExtraLines are added to the section [pgbouncer].
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

// PgBouncer is a connection pooler in front of a Postgres. Its methods may be called from
// any goroutine.
//
// The passwords are those of the server: the pooler reads them there (auth_query).
type PgBouncer struct {
	server
	cfg    PgBouncerConfig
	binary string
}

// FindPgBouncer returns the path of an installed pgbouncer, or ErrPgBouncerNotFound.
func FindPgBouncer() (string, error) {
	path := lookProgram("pgbouncer", "/usr/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")
	if path == "" {
		return "", ErrPgBouncerNotFound
	}
	return path, nil
}

// StartPgBouncer starts a pooler and returns when a query through it succeeds. If ctx has
// no deadline, the timeout is a minute. After an error nothing is left, and the error
// contains the last lines of the pooler's log.
func StartPgBouncer(ctx context.Context, cfg PgBouncerConfig) (*PgBouncer, error) {
	b, err := newPgBouncer(cfg)
	if err == nil {
		err = b.open(ctx, cfg.Dir, cfg.Port, nil, "postgres") // it refuses to run as root
	}
	if err != nil {
		return nil, fmt.Errorf("start pgbouncer: %w", err)
	}
	return b, nil
}

func newPgBouncer(cfg PgBouncerConfig) (*PgBouncer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	binary, err := givenOrFound(cfg.Binary, FindPgBouncer)
	if err != nil {
		return nil, err
	}
	b := &PgBouncer{cfg: cfg, binary: binary}
	b.server = server{name: "pgbouncer", kind: b, logger: cfg.Logger}
	return b, nil
}

// URL is for Target's superuser and the database "postgres", through the pooler.
func (b *PgBouncer) URL() string { return b.DatabaseURL(superuser) }

// DatabaseURL is like URL, for another database of Target. "pgbouncer" is the pooler's
// console, for commands like SHOW POOLS; it accepts simple queries only.
func (b *PgBouncer) DatabaseURL(name string) string {
	u, err := url.Parse(b.cfg.Target.DatabaseURL(name))
	if err != nil {
		panic("stack: Postgres.DatabaseURL is not a URL")
	}
	u.Host = address(b.Port())
	return u.String()
}

// Stop stops the pooler at once and closes all connections through it (SIGTERM).
func (b *PgBouncer) Stop() error { return b.stop(syscall.SIGTERM, stopGrace) }

func (b *PgBouncer) command() ProcessSpec {
	return ProcessSpec{Path: b.binary, Args: []string{b.configPath()}}
}

// ping connects, and checks that the server behind the pooler is Target.
func (b *PgBouncer) ping(ctx context.Context) error {
	cfg, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		return err
	}
	cfg.Host, cfg.Port = loopback, uint16(b.port)
	cfg.User, cfg.Password, cfg.Database = superuser, b.cfg.Target.password, superuser
	cfg.Fallbacks = nil
	// A named statement exists only on the server connection that prepared it.
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

// configure writes pgbouncer.ini.
func (b *PgBouncer) configure() error {
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
		// Tests create and drop roles, some without a password.
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
