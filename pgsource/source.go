package pgsource

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/job-publisher/reactor/reactor"
)

// minServerVersion is the oldest PostgreSQL we run on, as server_version_num.
const minServerVersion = 150000

// Source is the jobs table of one database.
type Source struct {
	cfg Config
	log *slog.Logger
	// backends is the application_name of all our connections. Instances that
	// give us up for dead use it to cut them off.
	backends string

	// work serves claims, loads and settlements. control, with one connection of
	// its own so that it never waits behind them, serves the membership.
	work, control *pgxpool.Pool
	// clientIDPrefix is set by Open.
	clientIDPrefix string
}

var _ reactor.Source = (*Source)(nil)

// New checks the configuration. It does not connect; Open does.
func New(cfg Config) (*Source, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("pgsource: %w", err)
	}
	var random [4]byte
	rand.Read(random[:]) // never fails, by its documentation
	return &Source{
		cfg:      cfg,
		log:      cfg.Logger,
		backends: "reactor-" + hex.EncodeToString(random[:]),
	}, nil
}

// Open connects and checks version, schema and rights.
func (s *Source) Open(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			s.Close()
			err = explain(err)
		}
	}()
	if s.work, err = s.newPool(ctx, s.cfg.MaxConns, "", s.warm); err != nil {
		return err
	}
	// A heartbeat that a crash of Postgres takes back has lost nothing, and must
	// not wait for a disk that is busy with everybody else's commits.
	if s.control, err = s.newPool(ctx, 1, "SET synchronous_commit = off", nil); err != nil {
		return err
	}
	return s.check(ctx)
}

// Close releases the connections.
func (s *Source) Close() {
	for _, pool := range []**pgxpool.Pool{&s.work, &s.control} {
		if *pool != nil {
			(*pool).Close()
			*pool = nil
		}
	}
}

// Now reads the database's clock.
func (s *Source) Now(ctx context.Context) (reactor.DBTime, error) {
	var now dbTime
	err := s.work.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&now)
	return now.DBTime, s.failed("read the clock", err)
}

// newPool opens a pool of connections; warm, if there is one, is called with each new one.
func (s *Source) newPool(ctx context.Context, conns int, setup string, warm func(context.Context, *pgx.Conn)) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(s.cfg.DatabaseURL)
	if err != nil {
		return nil, err
	}
	// All of them from the start: to open one when a job is due would make that job late.
	cfg.MaxConns, cfg.MinConns = int32(conns), int32(conns)
	cfg.ConnConfig.RuntimeParams["application_name"] = s.backends
	// Asking before each use whether the connection still stands would cost a
	// round trip on the way of every claim. A dead one is found by using it;
	// failed then discards its siblings.
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := s.prepareSession(ctx, conn, setup); err != nil {
			return err
		}
		if warm != nil {
			warm(ctx, conn)
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// prepareSession sets what all our statements rely on.
func (s *Source) prepareSession(ctx context.Context, conn *pgx.Conn, setup string) error {
	registerIDs(conn.TypeMap())
	settings := []string{
		fmt.Sprintf("SET statement_timeout = %d", s.cfg.StatementTimeout.Milliseconds()),
		// Nobody may make us wait for long: a claim skips locked rows, and what else
		// we lock is ours.
		"SET lock_timeout = '5s'",
		// Frozen inside a transaction we hold others up no longer than it takes them to
		// give us up.
		fmt.Sprintf("SET idle_in_transaction_session_timeout = %d", s.cfg.TTL.Milliseconds()),
		// Every statement of ours goes by an index. Plans made while the table was
		// empty, or before it was analyzed, must not turn to scanning it.
		"SET enable_seqscan = off",
		"SET enable_bitmapscan = off",
		"SET jit = off",
	}
	if setup != "" {
		settings = append(settings, setup)
	}
	_, err := conn.Exec(ctx, strings.Join(settings, "; "))
	return err
}

// warm has a connection make its first claim and its first settlement, of nothing: they take
// its backend ten times as long as the later ones, and the lead is not meant for that. An
// error is not reported: where the schema is missing, check says so, and where it is not, the
// real ones will.
func (s *Source) warm(ctx context.Context, conn *pgx.Conn) {
	const noLane = -1
	if rows, err := s.queryClaim(ctx, conn, reactor.ClaimRequest{Lease: reactor.Lease{Lane: noLane}, IDs: []int64{}}); err == nil {
		rows.Close()
	}
	_, _ = (&plainSettlements{}).settle(ctx, conn)
}

// check makes sure that what every method relies on is there.
func (s *Source) check(ctx context.Context) error {
	var (
		version   int
		shown     string
		encoding  string
		readOnly  bool
		user      string
		haveJobs  bool
		haveOurs  bool
		mayUse    bool
		mayUpdate bool
	)
	err := s.control.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::int, current_setting('server_version'),
		       current_setting('server_encoding'), pg_is_in_recovery(), current_user,
		       to_regclass('jobs') IS NOT NULL, to_regclass('reactor.failed_jobs') IS NOT NULL,
		       coalesce((SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = 'reactor'), true),
		       coalesce(has_table_privilege(to_regclass('jobs'), 'SELECT,UPDATE'), true)`).
		Scan(&version, &shown, &encoding, &readOnly, &user, &haveJobs, &haveOurs, &mayUse, &mayUpdate)
	switch {
	case err != nil:
		return err
	case version < minServerVersion:
		return fmt.Errorf("the database runs PostgreSQL %s, reactor needs 15 or newer: upgrade the server", shown)
	case encoding != "UTF8":
		return fmt.Errorf("the database's encoding is %s, MQTT needs UTF8: create one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0", encoding)
	case readOnly:
		return errors.New("the database is a read-only standby: give the address of the primary, or add target_session_attrs=primary to the database URL")
	case !mayUse || !mayUpdate:
		return fmt.Errorf("role %q lacks rights on the jobs: as their owner run GRANT USAGE ON SCHEMA reactor, GRANT SELECT, UPDATE ON jobs and GRANT ALL ON ALL TABLES IN SCHEMA reactor TO %q", user, user)
	case !haveJobs || !haveOurs:
		return errors.New("the tables of reactor are not in this database: run `reactor migrate up`, or psql -f sql/schema.sql -f sql/triggers.sql")
	}
	// The database's oid is part of it, so that a copy of the database, restored or
	// cloned for a test, does not take over the sessions of the original.
	var deployment string
	if err := s.control.QueryRow(ctx, `
		SELECT substr(md5(name || oid::text), 1, 8) FROM reactor.deployment, pg_database WHERE datname = current_database()`).
		Scan(&deployment); err != nil {
		return err
	}
	s.clientIDPrefix = "reactor-" + deployment + "-"
	return nil
}

// failed wraps an error of a statement, and drops the pooled connections when
// the server went away: the others lead to the same dead server.
func (s *Source) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	var connectErr *pgconn.ConnectError
	switch {
	case errors.As(err, &connectErr):
		return &connectionError{doing, explain(err), err}
	case connectionLost(err):
		s.work.Reset()
		s.control.Reset()
	}
	return fmt.Errorf("%s: %w", doing, err)
}
