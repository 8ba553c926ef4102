package pgsource

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/naming"
	"github.com/job-publisher/reactor/internal/ratelog"
	"github.com/job-publisher/reactor/reactor/driver"
)

// Source is the table of jobs of one database. It implements driver.Source.
type Source struct {
	cfg Config
	log *slog.Logger
	// backends is the application_name of all our connections. Instances that depose this one
	// terminate the connections with that name.
	backends string
	// protocols are those that it understands.
	protocols driver.Protocols
	// names are those of the deployment. All texts are written for the default ones (names.go).
	names naming.Names
	// hosts are those of the DatabaseURL, and feedHosts those of the ListenURL.
	hosts, feedHosts hosts
	moves            moves
	timelines        timelines

	// Open sets the following fields.

	examining bool // Examine: nothing may be changed. It is set before anything else

	pooled bool                  // the database URL leads through a pooler
	direct bool                  // it was found that it does not
	table  atomic.Pointer[table] // the table of jobs
	// clientIDPrefix is the beginning of the MQTT client ids of the deployment's lanes.
	clientIDPrefix string

	// work is for loads. hot uses the same connections with a shorter timeout, for claims and
	// settlements; so does background, one at a time, for what may take long. control has one
	// connection of its own, so that the membership never waits behind other statements.
	work, hot, control, background *database
	pools                          pools // poolstats.go
	// slowSettings are the limits of statements on work that may take long.
	slowSettings settings

	// feed.go
	feed       feedStatus
	feedChecks chan struct{} // one slot: what the deployment provides may have changed
	walRuns    atomic.Bool   // the WAL feed runs or is starting
	walFeeds   atomic.Int64  // how many slots were named
	// Owned by the goroutine of Listen: the feeds that were chosen, the choice that the log was
	// told last, when reading the WAL was last tried, and why that failed.
	chosen        []Feed
	saidFeed      string
	walTried      time.Time
	walObstructed error

	starts  journalStarts // journalstart.go
	settled settled       // settled.go

	outdated atomic.Bool // a read has found a job that is outdated (ordering.go)

	// owned are the shards of this instance, a driver.ShardSet: all of them until a beat has told.
	owned atomic.Uint64

	// chores.go
	chores                 sync.WaitGroup  // rounds, each of which ends by itself
	closing                context.Context // Close ends it
	endChores              context.CancelFunc
	tending                atomic.Bool // true: a round runs, which owns the next two fields
	nextReturns, nextPurge time.Time
	returnsWait            atomic.Bool // jobs wait to be returned to the table
	tableGone              atomic.Bool // a statement did not find the table
	gone                   ratelog.Limiter
	maintaining            atomic.Bool // true: the partitions are maintained, by whoever owns the next field
	nextMaintenance        time.Time
	unmaintained           ratelog.Limiter
	scheduling             atomic.Bool    // true: occurrences are made (occurrences.go)
	scheduler              sync.WaitGroup // who makes them, until Close
	unscheduled            ratelog.Limiter
	retaining              atomic.Bool // true: rows are being deleted, by whoever owns the next two fields
	nextRetention          time.Time
	nextOrphans            time.Time
	unretained, unindexed  ratelog.Limiter
	undeletable            ratelog.Limiter
	unreturnable           ratelog.Limiter
	short                  ratelog.Limiter
	saidOutdated           atomic.Bool // the log was told that the triggers are of an earlier version
}

// jobs returns the table and its statements.
func (s *Source) jobs() *table { return s.table.Load() }

var _ driver.Source = (*Source)(nil)

const (
	// hotTimeout is how long a claim or a settlement may take. All due jobs of the instance wait
	// for it, and a broken connection is noticed after this time at the latest.
	hotTimeout = 5 * time.Second
	// tableLockTimeout is how long we wait for a lock of somebody else. A claim skips locked rows,
	// so this is about locks of whole tables.
	tableLockTimeout = 2 * time.Second
	// backgroundTimeout is for statements that nothing waits for.
	backgroundTimeout = 5 * time.Second
	// extraConns is the number of connections besides those of Config.MaxConns, at most: for the
	// membership, for the feed, and for a statement that takes long.
	extraConns = 3
	// idleConns is how many an idle instance holds: for the membership, for the feed, and one for
	// everything else.
	idleConns = 3
	// serverAnswerMargin is how much longer than the server we wait before we give a statement up:
	// the server's answer says whether the statement took effect, our own timeout does not.
	serverAnswerMargin = time.Second
)

// New checks the configuration; a field that cannot be used is a *driver.ConfigError. It does not
// connect: Open does.
func New(cfg Config) (*Source, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("pgsource: %w", err)
	}
	checked, err := cfg.deployment().check()
	if err != nil {
		return nil, fmt.Errorf("pgsource: %w", err)
	}
	var random [4]byte
	rand.Read(random[:]) // never fails, by its documentation
	s := &Source{
		settled:    settled{at: driver.DistantPast},
		cfg:        cfg,
		log:        cfg.Logger,
		names:      checked,
		protocols:  driver.OurProtocols,
		backends:   "reactor-" + hex.EncodeToString(random[:]),
		feedChecks: make(chan struct{}, 1),
	}
	s.owned.Store(uint64(driver.AllShards))
	s.hosts.chosen, s.feedHosts.chosen = s.arrive, s.arrive
	s.hosts.files = &liveFiles{log: s.log}
	s.feedHosts.files = s.hosts.files
	if cfg.ListenURL != cfg.DatabaseURL {
		s.feedHosts.files = &liveFiles{log: s.log}
	}
	return s, nil
}

// Open connects, inspects the server, the table and our rights, and refuses a database on which it
// could not keep its promises. Its error is one line that says what to do, and unwraps to the error
// of pgx. After an error nothing is open, and Open may be called again.
func (s *Source) Open(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			s.Close()
			if s.pooled && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				err = explained(err, "the pooler gives us no connection to the database: in session mode its pool must hold %d for each instance, up to %d under load, and those of everybody else: enlarge it, or use transaction mode", idleConns-1, s.cfg.MaxConns+extraConns-1)
				return
			}
			err = explain(err)
		}
	}()
	s.closing, s.endChores = context.WithCancel(context.WithoutCancel(ctx))
	path, err := s.inspectServer(ctx)
	if err != nil {
		return err
	}
	if s.control, err = s.open(ctx, use{
		// Shorter than the caller of Beat waits: a beat without an answer is the sign of a broken
		// connection, and then the other connections are replaced as well.
		conns: 1, timeout: s.cfg.TTL * 2 / 3, settings: timeouts(s.cfg.TTL, tableLockTimeout, s.cfg.TTL),
		// A crash of Postgres may undo a heartbeat without harm, and a heartbeat must not wait for
		// a disk that is busy with the commits of others.
		asynchronous: true,
	}); err != nil {
		return err
	}
	if !s.pooled {
		if err := s.checkConnections(ctx); err != nil {
			return err
		}
	}
	found, err := s.findTable(ctx, path)
	if err != nil {
		return err
	}
	s.table.Store(&found)
	if err := s.checkRights(ctx); err != nil {
		return err
	}
	if err := s.warnOfTriggers(ctx); err != nil {
		return err
	}
	if err := s.identify(ctx); err != nil {
		return err
	}
	// The server ends claims and settlements before we give them up: a claim that goes on there
	// holds its lane, and ResolveClaim waits for that.
	prompt := min(hotTimeout-serverAnswerMargin, s.cfg.StatementTimeout)
	if s.work, err = s.open(ctx, use{
		// With room for a statement of background, so that it takes no place of the others.
		conns: s.cfg.MaxConns + 1, timeout: s.cfg.StatementTimeout + serverAnswerMargin, patience: quickPatience,
		settings: timeouts(prompt, tableLockTimeout, s.cfg.TTL), warm: s.warm,
	}); err != nil {
		return err
	}
	hot := *s.work
	hot.timeout, hot.patience = prompt+serverAnswerMargin, 0
	s.hot = &hot
	s.slowSettings = settings{{"statement_timeout", fmt.Sprintf("%dms", s.cfg.StatementTimeout.Milliseconds())}}
	s.background = s.work.aside(backgroundTimeout+serverAnswerMargin, timeouts(backgroundTimeout, tableLockTimeout/2, s.cfg.TTL), !s.pooled)
	if s.cfg.Feed != FeedWAL {
		return nil
	}
	return s.checkWAL(ctx)
}

// Name is the name of this instance in reactor.instances.
func (s *Source) Name() string { return s.cfg.Name }

// Close closes the connections. No other method may be running.
func (s *Source) Close() {
	if s.endChores != nil {
		s.endChores()
		s.chores.Wait()
		s.scheduler.Wait()
	}
	s.pools.clear()
	for _, db := range []**database{&s.work, &s.control} {
		(*db).close()
		*db = nil
	}
	s.hot, s.background = nil, nil
}

// Now reads the database's clock. It implements driver.Source.
func (s *Source) Now(ctx context.Context) (driver.DBTime, error) {
	var now dbTime
	err := s.work.row(ctx, "SELECT clock_timestamp()", nil, &now)
	return now.DBTime, s.failed("read the clock", err)
}

// warm makes a connection's first settlement and first claim, of nothing: the first ones take its
// backend ten times as long as the later ones, and the lead of claims does not allow for that.
// Whoever opens the connection waits for it, and it may be a settlement, which must not wait
// for a lock on the jobs table (warmLockTimeout). Other errors of the two are not reported, because the
// real statements will report the same.
func (s *Source) warm(ctx context.Context, conn *pgx.Conn) error {
	const noLane = -1
	if rows, err := conn.Query(ctx, s.names.In(settleSQL), new(plainSettlements).args()...); err == nil {
		rows.Close()
	}
	if err := setLockTimeout(ctx, conn, warmLockTimeout); err != nil {
		return err
	}
	if rows, err := conn.Query(ctx, s.names.In(s.jobs().claim), s.jobs().claimArgs(driver.ClaimRequest{Lease: driver.Lease{Lane: noLane}, IDs: []int64{}})...); err == nil {
		rows.Close()
	}
	return setLockTimeout(ctx, conn, tableLockTimeout)
}

// warmLockTimeout is much longer than any lock that the application takes for a moment.
const warmLockTimeout = 50 * time.Millisecond

func setLockTimeout(ctx context.Context, conn *pgx.Conn, d time.Duration) error {
	return conn.PgConn().Exec(ctx, fmt.Sprintf("SET lock_timeout = '%dms'", d.Milliseconds())).Close()
}

// failed wraps the error of a statement. If the connection was lost it also discards the pooled
// connections, because they lead to the same server.
//
// A statement that got no connection says nothing of the others. If it discarded those that are
// being opened, no connection that takes longer than the statement waits would ever come to be used.
func (s *Source) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	var (
		connectErr *pgconn.ConnectError
		notSent    *notSentError
	)
	switch {
	case errors.As(err, &connectErr), errors.Is(err, errReadOnly):
		return fmt.Errorf("%s: %w", doing, explain(err))
	case errors.As(err, &notSent):
	case sqlState(err) == pgerrcode.ReadOnlySQLTransaction:
		s.reset()
		s.moves.tell()
	case connectionLost(err):
		s.reset()
	case sqlState(err) == pgerrcode.UndefinedTable:
		s.tableGone.Store(true) // the next beat has it searched for
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// reset makes the pools open every connection anew before its next use.
func (s *Source) reset() {
	s.starts.forget()
	s.settled.forget()
	for _, db := range []*database{s.work, s.control} {
		if db != nil {
			db.pool.reset()
		}
	}
}

// connectionsAreShort reports that the pool cannot grow. The statements share the connections that
// there are, and nothing fails.
func (s *Source) connectionsAreShort(open int, err error) {
	if sqlState(err) == pgerrcode.TooManyConnections { // other errors are reported by the statements
		s.short.Fail(s.log, slog.LevelWarn, "the database has no connection left for more work at once; going on with those that there are", "connections", open, "err", explain(err))
	}
}
