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

	"github.com/job-publisher/reactor/internal/naming"
	"github.com/job-publisher/reactor/internal/sockopt"
)

// database is a pool of connections with our settings (settings.go). Every statement has a deadline
// of our own: without one, a statement that waits for a host without power, or on a connection that
// a firewall has forgotten, would wait for a quarter of an hour.
//
// Behind a pooler in transaction mode each statement becomes a transaction that begins with the
// settings, in the same round trip: what a session sets, prepares or locks there would be passed on
// to other clients, and theirs to us.
type database struct {
	pool *pool
	// timeout is the deadline of a statement whose context has none that is earlier.
	timeout time.Duration
	// patience is how long a statement waits for a connection that is released, before another one
	// is opened for it.
	patience time.Duration
	// settings are those of the connections; or, if local is not empty, those that every statement
	// brings with it. local is the statement that applies them to a transaction.
	settings settings
	local    string
	// server says on which server the statements may run; nil: on whatever the connections lead to (poolerserver.go).
	server *serverGuard
	// accept, if it is not nil, looks at the connection that a statement has got. With an error the statement is not
	// sent.
	accept func(*pgconn.PgConn) error
	// names are those of the deployment, with which every text is rewritten.
	names naming.Names
	// alone, if it is not nil, lets one statement or transaction run at a time.
	alone chan struct{}
}

// conn is a connection that a statement or a transaction uses.
type conn struct {
	*pgx.Conn
	release func()
}

// acquire returns a connection, which the caller releases, or a *notSentError.
func (db *database) acquire(ctx context.Context) (conn, error) {
	if db.alone != nil {
		select {
		case db.alone <- struct{}{}:
		case <-ctx.Done():
			return conn{}, &notSentError{ctx.Err()}
		}
	}
	leave := func() {
		if db.alone != nil {
			<-db.alone
		}
	}
	c, err := db.pool.acquire(ctx, db.patience)
	if err != nil {
		leave()
		return conn{}, &notSentError{err}
	}
	release := func() {
		db.pool.release(c)
		leave()
	}
	if db.accept != nil {
		if err := db.accept(c.PgConn()); err != nil {
			release()
			return conn{}, &notSentError{err}
		}
	}
	return conn{c.Conn, release}, nil
}

// accepting returns a database on the same connections that looks at the connection of each statement first.
func (db *database) accepting(accept func(*pgconn.PgConn) error) *database {
	one := *db
	one.accept = accept
	return &one
}

// begin returns what every statement brings with it. It is asked for before the connection, so that a statement which was
// made for one server is not sent to the next.
func (db *database) begin() string { return db.local + db.server.condition() }

// outcome returns the error of a statement, marked if our own timeout caused it, or if it met another server.
func (db *database) outcome(ctx context.Context, err error) error {
	return markTimeout(ctx, db.server.notice(err))
}

// use says what a database is for.
type use struct {
	// conns is how many connections are opened at most.
	conns int
	// timeout is the deadline of a statement.
	timeout time.Duration
	// patience is as in database.
	patience time.Duration
	settings settings
	// asynchronous: commits do not wait for the disk, and a crash of PostgreSQL may undo them.
	asynchronous bool
	// warm is called with each new connection.
	warm func(context.Context, *pgx.Conn) error
}

// open connects, and fails after connectTimeout.
func (s *Source) open(ctx context.Context, u use) (*database, error) {
	cfg, lifetime, jitter, err := poolParameters(s.cfg.DatabaseURL)
	if err != nil {
		return nil, err
	}
	db := &database{names: s.names, timeout: u.timeout, patience: u.patience, settings: append(slices.Clone(pinned), u.settings...)}
	if s.pooled {
		db.local = db.settings.localSQL(false)
		db.server = &serverGuard{&s.timelines, s.reset}
	}
	s.configure(cfg)
	if !s.pooled {
		requestNoLimits(cfg)
	}
	// A connection is not pinged before each use: that would add a round trip to every claim. A
	// broken connection is noticed when it is used; Source.failed then discards the others.
	connect := func(ctx context.Context) (*pgx.Conn, error) { return s.hosts.connect(ctx, cfg) }
	db.pool = newPool(ctx, poolConfig{connect: connect, most: u.conns, idleTime: idleTime, keepTime: keepTime, lifetime: lifetime, jitter: jitter, short: s.connectionsAreShort, setUp: func(ctx context.Context, conn *pgx.Conn) error {
		registerIDs(conn.TypeMap())
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		if err := s.setUpSession(ctx, conn, u.settings); err != nil || s.pooled {
			return err
		}
		if jobs := s.jobs(); jobs != nil && jobs.tree { // see partitioned.go
			if err := conn.PgConn().Exec(ctx, "SET plan_cache_mode = force_custom_plan").Close(); err != nil {
				return err
			}
		}
		if u.asynchronous {
			if err := conn.PgConn().Exec(ctx, "SET synchronous_commit = off").Close(); err != nil {
				return err
			}
		}
		if u.warm != nil {
			return u.warm(ctx, conn)
		}
		return nil
	}})
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	first, err := db.acquire(ctx)
	if err != nil {
		db.pool.close()
		return nil, err
	}
	first.release()
	s.pools.add(db.pool)
	return db, nil
}

// aside returns a database on the same connections for statements that may take long: one at a time,
// each with settings of its own. With asynchronous, a crash of PostgreSQL may undo their commits.
func (db *database) aside(timeout time.Duration, own settings, asynchronous bool) *database {
	all := append(slices.Clone(pinned), own...)
	return &database{
		pool: db.pool, names: db.names, timeout: timeout, patience: asidePatience, alone: make(chan struct{}, 1),
		settings: all, local: all.localSQL(asynchronous), server: db.server,
	}
}

// connectTimeout is how long the first connection may take.
const connectTimeout = 15 * time.Second

// statementsKept is more than the different statements that a connection of ours is used for.
const statementsKept = 128

// configure sets what all our connections have in common.
func (s *Source) configure(cfg *pgx.ConnConfig) {
	cfg.RuntimeParams["application_name"] = s.backends
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = dialTimeout
	}
	// pgx makes room for 512 of each beforehand, which is half a megabyte for all connections.
	cfg.StatementCacheCapacity = min(cfg.StatementCacheCapacity, statementsKept)
	cfg.DescriptionCacheCapacity = min(cfg.DescriptionCacheCapacity, statementsKept)
	if s.pooled {
		// Named statements belong to the session, which is not ours alone.
		cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	cfg.DialFunc = hardened
	// Of several hosts in the URL, or several addresses of a host, take one that accepts writes. No
	// other is usable, whatever target_session_attrs says.
	cfg.ValidateConnect = s.accepts
}

// hardened opens a connection that notices when the other side is unreachable, and closes without waiting for it.
func hardened(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := sockopt.Harden(conn, unacknowledgedTimeout); err != nil {
		conn.Close()
		return nil, err
	}
	return &boundedClose{conn}, nil
}

// boundedClose bounds how long pgx takes to close a connection. When a statement has got no answer,
// pgx closes its connection in the background and waits for up to 15 s for the server. The pool
// does not use the connection's place meanwhile, and the pool of the heartbeat has a single place.
// pgx sets no other deadline that is further ahead.
type boundedClose struct{ net.Conn }

// NetConn returns the wrapped connection, so that package sockopt finds the socket.
func (c *boundedClose) NetConn() net.Conn { return c.Conn }

// closeTimeout is long enough for a server that answers.
const closeTimeout = time.Second

func (c *boundedClose) SetDeadline(t time.Time) error {
	if latest := time.Now().Add(closeTimeout); t.After(latest) {
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
	// asidePatience is for statements that nothing waits for, quickPatience for reads: when all
	// connections are in use for a moment, that is no reason to open another one.
	asidePatience, quickPatience = 250 * time.Millisecond, 20 * time.Millisecond
	// dialTimeout is how long a connection to one address may take.
	dialTimeout = 5 * time.Second
	// unacknowledgedTimeout is how long a host may acknowledge nothing of what we send, or of the
	// probes of an idle connection, before the connection is ended.
	unacknowledgedTimeout = 5 * time.Second
)

// close closes the connections.
func (db *database) close() {
	if db != nil {
		db.pool.close()
	}
}

// rows runs one statement, which commits by itself, and has read read its rows.
func (db *database) rows(ctx context.Context, sql string, args []any, read func(pgx.Rows) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, db.timeout, errNoAnswer)
	defer cancel()
	if db.local != "" {
		return db.outcome(ctx, db.rowsTogether(ctx, db.begin(), sql, args, read))
	}
	conn, err := db.acquire(ctx)
	if err != nil {
		return markTimeout(ctx, err)
	}
	defer conn.release()
	rows, err := conn.Query(ctx, db.names.In(sql), args...)
	if err != nil {
		return markTimeout(ctx, err)
	}
	defer rows.Close()
	return markTimeout(ctx, read(rows))
}

// errNoAnswer marks a statement that took longer than our timeout. pgx has closed its connection.
var errNoAnswer = errors.New("no answer from the database")

// markTimeout wraps an error in errNoAnswer if our own timeout caused it, and not the caller's.
func markTimeout(ctx context.Context, err error) error {
	if err != nil && context.Cause(ctx) == errNoAnswer {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return err
}

// rowsWith is rows with other settings for this statement.
func (db *database) rowsWith(ctx context.Context, with settings, sql string, args []any, read func(pgx.Rows) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, db.timeout, errNoAnswer)
	defer cancel()
	if db.local != "" {
		with = append(slices.Clone(db.settings), with...)
	}
	return db.outcome(ctx, db.rowsTogether(ctx, with.localSQL(false)+db.server.condition(), sql, args, read))
}

// rowsTogether sends a transaction and its settings in one batch.
func (db *database) rowsTogether(ctx context.Context, local, sql string, args []any, read func(pgx.Rows) error) error {
	return db.inOneTrip(ctx, []statement{{local, nil}, {sql, args}}, read)
}

// together runs a transaction of statements, whose rows are ignored, in one round trip.
func (db *database) together(ctx context.Context, list []statement) error {
	ctx, cancel := context.WithTimeoutCause(ctx, db.timeout, errNoAnswer)
	defer cancel()
	if db.local != "" {
		list = slices.Insert(slices.Clone(list), 0, statement{db.begin(), nil})
	}
	return db.outcome(ctx, db.inOneTrip(ctx, list, func(rows pgx.Rows) error {
		rows.Close()
		return rows.Err()
	}))
}

type statement struct {
	sql  string
	args []any
}

// inOneTrip sends a transaction in one batch, and has read read the rows of its last statement. If
// a statement fails, the COMMIT behind it is not executed, and the connection is inside a failed
// transaction. That is rolled back: closing the connection instead would cost the pooler one to the
// server.
func (db *database) inOneTrip(ctx context.Context, list []statement, read func(pgx.Rows) error) error {
	conn, err := db.acquire(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if protocol := conn.PgConn(); protocol.TxStatus() == 'E' && !protocol.IsClosed() {
			_ = protocol.Exec(ctx, "ROLLBACK").Close() // if it fails, release closes the connection
		}
		conn.release()
	}()
	var b pgx.Batch
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	for _, st := range list {
		b.Queue(db.names.In(st.sql), st.args...)
	}
	b.Queue("COMMIT")
	results := conn.SendBatch(ctx, &b)
	for range len(list) {
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

// exec runs one statement and ignores its rows.
func (db *database) exec(ctx context.Context, sql string, args ...any) error {
	return db.rows(ctx, sql, args, func(rows pgx.Rows) error {
		rows.Close()
		return rows.Err()
	})
}

// tx runs a transaction at READ COMMITTED, the isolation level that all reasoning here assumes.
func (db *database) tx(ctx context.Context, do func(pgx.Tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, db.timeout, errNoAnswer)
	defer cancel()
	options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
	if db.local != "" {
		// The settings are in the same round trip, because the session's own limits may end a
		// transaction that pauses.
		options = pgx.TxOptions{BeginQuery: "BEGIN ISOLATION LEVEL READ COMMITTED; " + db.begin()}
	}
	conn, err := db.acquire(ctx)
	if err != nil {
		return markTimeout(ctx, err)
	}
	defer conn.release()
	return db.outcome(ctx, pgx.BeginTxFunc(ctx, conn.Conn, options, renamed(db.names, do)))
}

// scanRow reads the only row; pgx.ErrNoRows if there is none.
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
