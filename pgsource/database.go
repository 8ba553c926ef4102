package pgsource

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/job-publisher/reactor/internal/sockopt"
)

// database is a pool of connections on which our settings hold (settings.go), and every
// statement has a deadline of our own: one that waits for a host without power, or for a
// connection that a firewall has forgotten, would wait for a quarter of an hour.
//
// Behind a pooler in transaction mode each statement becomes a transaction that begins
// with the settings, in the same round trip: what a session there sets, or prepares, or
// locks, it would hand on to strangers, and get back from them.
type database struct {
	pool   *pgxpool.Pool
	pooled bool
	// patience is the deadline of a statement, where its context has none that is earlier.
	patience time.Duration
	settings settings
	local    string // makes them for a transaction
}

// use is what a database is for.
type use struct {
	conns int
	// patience is the deadline of a statement.
	patience time.Duration
	settings settings
	// asynchronous commits are for what a crash of PostgreSQL may take back.
	asynchronous bool
	// warm is called with each new connection.
	warm func(context.Context, *pgx.Conn)
}

// open connects.
func (s *Source) open(ctx context.Context, u use) (*database, error) {
	cfg, err := pgxpool.ParseConfig(s.cfg.DatabaseURL)
	if err != nil {
		return nil, redacted(err)
	}
	db := &database{pooled: s.pooled, patience: u.patience, settings: append(slices.Clone(pinned), u.settings...)}
	db.local = db.settings.localSQL()
	// All of them from the start: to open one when a job is due would make that job late.
	cfg.MaxConns, cfg.MinConns = int32(u.conns), int32(u.conns)
	s.configure(cfg.ConnConfig)
	if !s.pooled {
		askForNoLimits(cfg.ConnConfig)
	}
	// Asking before each use whether the connection still stands would cost a
	// round trip on the way of every claim. A dead one is found by using it;
	// failed then discards its siblings.
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		registerIDs(conn.TypeMap())
		ctx, cancel := context.WithTimeout(ctx, dialPatience)
		defer cancel()
		if err := s.greet(ctx, conn, u.settings); err != nil || s.pooled {
			return err
		}
		if u.asynchronous {
			if err := conn.PgConn().Exec(ctx, "SET synchronous_commit = off").Close(); err != nil {
				return err
			}
		}
		if u.warm != nil {
			u.warm(ctx, conn)
		}
		return nil
	}
	if db.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	if err := db.pool.Ping(ctx); err != nil {
		db.pool.Close()
		return nil, err
	}
	return db, nil
}

// connectPatience is how long the first connection may take.
const connectPatience = 15 * time.Second

// statementsKept is more than the different statements that a connection of ours is used for.
const statementsKept = 128

// configure is what all our connections have in common.
func (s *Source) configure(cfg *pgx.ConnConfig) {
	cfg.RuntimeParams["application_name"] = s.backends
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = dialPatience
	}
	// pgx makes room for 512 of each beforehand, which is half a megabyte for all connections.
	cfg.StatementCacheCapacity = min(cfg.StatementCacheCapacity, statementsKept)
	cfg.DescriptionCacheCapacity = min(cfg.DescriptionCacheCapacity, statementsKept)
	if s.pooled {
		// Named statements are the session's, which is not ours.
		cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	dialer := net.Dialer{Timeout: dialPatience}
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if err := sockopt.Harden(conn, silentPeer); err != nil {
			conn.Close()
			return nil, err
		}
		return &briefGoodbye{conn}, nil
	}
	// Of several hosts in the URL, or addresses of a host, the one that takes writes. Whatever
	// target_session_attrs says, no other is of any use.
	cfg.ValidateConnect = takesWrites
	if s.pooled {
		cfg.ValidateConnect = takesWritesPooled
	}
}

// briefGoodbye bounds how long a connection that was given up is waited for. pgx closes one
// whose statement has got no answer in the background, with a goodbye of up to 15 s, and
// the pool gives its place to no other one meanwhile: the heartbeat has a single place.
// Nothing else of pgx's sets a deadline that lies further ahead.
type briefGoodbye struct{ net.Conn }

// NetConn lets the socket be found under it.
func (c *briefGoodbye) NetConn() net.Conn { return c.Conn }

// goodbyePatience is long enough for a server that answers.
const goodbyePatience = time.Second

func (c *briefGoodbye) SetDeadline(t time.Time) error {
	if latest := time.Now().Add(goodbyePatience); t.After(latest) {
		t = latest
	}
	return c.Conn.SetDeadline(t)
}

func takesWrites(ctx context.Context, conn *pgconn.PgConn) error {
	err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn)
	if errors.Is(err, pgconn.ErrReadOnlyConnection) {
		return errReadOnly
	}
	return err
}

const (
	// dialPatience is how long one address may take to be connected to.
	dialPatience = 5 * time.Second
	// silentPeer is how long a host may acknowledge nothing of what we send, or of the probes
	// of an idle connection, before the connection is given up.
	silentPeer = 5 * time.Second
)

// close releases the connections.
func (db *database) close() {
	if db != nil {
		db.pool.Close()
	}
}

// rows runs one statement, which commits by itself, and has its rows read.
func (db *database) rows(ctx context.Context, sql string, args []any, read func(pgx.Rows) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, db.patience, errNoAnswer)
	defer cancel()
	if db.pooled {
		return silence(ctx, db.rowsTogether(ctx, db.local, sql, args, read))
	}
	rows, err := db.pool.Query(ctx, sql, args...)
	if err != nil {
		return silence(ctx, err)
	}
	return silence(ctx, read(rows))
}

// errNoAnswer is a statement that took longer than our patience. pgx has closed its
// connection then.
var errNoAnswer = errors.New("no answer from the database")

// silence tells our own patience from that of the caller.
func silence(ctx context.Context, err error) error {
	if err != nil && context.Cause(ctx) == errNoAnswer {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return err
}

// rowsWith is rows with other settings for this one statement.
func (db *database) rowsWith(ctx context.Context, with settings, sql string, args []any, read func(pgx.Rows) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, db.patience, errNoAnswer)
	defer cancel()
	if db.pooled {
		with = append(slices.Clone(db.settings), with...)
	}
	return silence(ctx, db.rowsTogether(ctx, with.localSQL(), sql, args, read))
}

// rowsTogether sends the transaction whole, with its settings. Where a statement fails the COMMIT behind it is
// not executed, and the connection is in the midst of a transaction. It is rolled back: to
// throw the connection away would cost the pooler one to the server.
func (db *database) rowsTogether(ctx context.Context, local, sql string, args []any, read func(pgx.Rows) error) error {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if protocol := conn.Conn().PgConn(); protocol.TxStatus() == 'E' && !protocol.IsClosed() {
			_ = protocol.Exec(ctx, "ROLLBACK").Close() // if it fails Release will notice
		}
		conn.Release()
	}()
	var b pgx.Batch
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	b.Queue(local)
	b.Queue(sql, args...)
	b.Queue("COMMIT")
	results := conn.SendBatch(ctx, &b)
	for range 2 {
		if _, err := results.Exec(); err != nil {
			results.Close()
			return err
		}
	}
	rows, err := results.Query()
	if err == nil {
		err = read(rows)
	}
	var tag pgconn.CommandTag
	if err == nil {
		tag, err = results.Exec()
	}
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	if err == nil && tag.String() != "COMMIT" {
		err = fmt.Errorf("the transaction ended with %s", tag)
	}
	return err
}

// row runs one statement that returns one row.
func (db *database) row(ctx context.Context, sql string, args []any, into ...any) error {
	return db.rows(ctx, sql, args, func(rows pgx.Rows) error { return scanRow(rows, into) })
}

// exec runs one statement without looking at what it returns.
func (db *database) exec(ctx context.Context, sql string, args ...any) error {
	return db.rows(ctx, sql, args, func(rows pgx.Rows) error {
		rows.Close()
		return rows.Err()
	})
}

// tx runs a transaction, at the isolation that everything here is argued with.
func (db *database) tx(ctx context.Context, do func(pgx.Tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, db.patience, errNoAnswer)
	defer cancel()
	options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
	if db.pooled {
		// In the same round trip: the session's own limits may bear no pause in a transaction.
		options = pgx.TxOptions{BeginQuery: "BEGIN ISOLATION LEVEL READ COMMITTED; " + db.local}
	}
	return silence(ctx, pgx.BeginTxFunc(ctx, db.pool, options, do))
}

// scanRow reads the only row.
func scanRow(rows pgx.Rows, into []any) error {
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := rows.Scan(into...); err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}
