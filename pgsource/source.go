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

	"github.com/job-publisher/reactor/internal/ratelog"
	"github.com/job-publisher/reactor/reactor/driver"
)

// Source is the jobs table of one database.
type Source struct {
	cfg Config
	log *slog.Logger
	// backends is the application_name of all our connections. Instances that
	// give us up for dead use it to cut them off.
	backends string

	// What follows is set by Open.

	pooled bool                  // the database URL leads through a pooler
	table  atomic.Pointer[table] // what the deployment is about
	// clientIDPrefix is what the MQTT client ids of the deployment's lanes begin with.
	clientIDPrefix string

	// work serves loads, and hot, on the same connections but with less patience, claims
	// and settlements. control, with one connection of its own so that it never waits
	// behind anything, serves the membership; aside is for whatever may take long.
	work, hot, control, aside *database
	// atLeisure are the limits of what may take long over the connections of work.
	atLeisure settings

	// feed.go
	feed        feedStatus
	lookAtFeeds chan struct{} // one-slot: what the deployment has may have changed
	walRuns     atomic.Bool   // the WAL is being read, or about to be
	walFeeds    atomic.Int64  // how often it was begun
	// Owned by the goroutine of Listen: what was chosen and what the log was told last, and when the WAL was last
	// tried to be read, and why that failed.
	chosen        []Feed
	saidFeed      string
	walTried      time.Time
	walObstructed error

	// chores.go
	chores                 sync.WaitGroup
	closing                context.Context // ended by Close
	endChores              context.CancelFunc
	tending                atomic.Bool // guards the two below
	nextReturns, nextPurge time.Time
	returnsWait            atomic.Bool // jobs wait for their return to the table
	tableGone              atomic.Bool // a statement did not find it
	gone                   ratelog.Limiter
	unreturnable           ratelog.Limiter
}

// jobs is the table, with its statements.
func (s *Source) jobs() *table { return s.table.Load() }

var _ driver.Source = (*Source)(nil)

const (
	// hotPatience is how long a claim or a settlement may take. Everybody's due jobs wait
	// for it, and a dead connection is noticed by it at the latest.
	hotPatience = 5 * time.Second
	// lockPatience is how long we wait for a lock that somebody else holds. A claim skips
	// locked rows; this is for locks of whole tables.
	lockPatience = 2 * time.Second
	// asidePatience is for what nobody waits for.
	asidePatience = 5 * time.Second
	// besides is how many connections there are beside those of Config.MaxConns.
	besides = 3
	// slack is how much later than the server we give a statement up: its answer says
	// what has become of it, ours does not.
	slack = time.Second
)

// New checks the configuration. It does not connect; Open does.
func New(cfg Config) (*Source, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("pgsource: %w", err)
	}
	var random [4]byte
	rand.Read(random[:]) // never fails, by its documentation
	return &Source{
		cfg:         cfg,
		log:         cfg.Logger,
		backends:    "reactor-" + hex.EncodeToString(random[:]),
		lookAtFeeds: make(chan struct{}, 1),
	}, nil
}

// Open connects, finds out what it is connected to, and refuses what it could not keep
// its promises on.
func (s *Source) Open(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			s.Close()
			if s.pooled && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				err = explained(err, "the pooler gives us no connection to the database: in session mode its pool must hold the %d of each instance, and those of everybody else: enlarge it, or use transaction mode", s.cfg.MaxConns+besides-1)
				return
			}
			err = explain(err)
		}
	}()
	s.closing, s.endChores = context.WithCancel(context.WithoutCancel(ctx))
	path, err := s.lookAround(ctx)
	if err != nil {
		return err
	}
	if s.control, err = s.open(ctx, use{
		// Less than whoever beats is prepared to wait: a beat that gets no answer is the sign
		// of a dead connection, and the others are replaced with it.
		conns: 1, patience: s.cfg.TTL * 2 / 3, settings: timeouts(s.cfg.TTL, lockPatience, s.cfg.TTL),
		// A heartbeat that a crash of Postgres takes back has lost nothing, and must
		// not wait for a disk that is busy with everybody else's commits.
		asynchronous: true,
	}); err != nil {
		return err
	}
	if !s.pooled {
		if err := checkConnections(ctx, s.control.pool, s.cfg.MaxConns+besides); err != nil {
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
	// Claims and settlements end at the server before we give them up: a claim that goes on
	// there holds its lane, and whoever asks what has become of it waits for that.
	prompt := min(hotPatience-slack, s.cfg.StatementTimeout)
	if s.work, err = s.open(ctx, use{
		conns: s.cfg.MaxConns, patience: s.cfg.StatementTimeout + slack,
		settings: timeouts(prompt, lockPatience, s.cfg.TTL), warm: s.warm,
	}); err != nil {
		return err
	}
	hot := *s.work
	hot.patience = prompt + slack
	s.hot = &hot
	s.atLeisure = settings{{"statement_timeout", fmt.Sprintf("%dms", s.cfg.StatementTimeout.Milliseconds())}}
	s.aside, err = s.open(ctx, use{
		conns: 1, patience: asidePatience + slack, settings: timeouts(asidePatience, lockPatience/2, s.cfg.TTL), asynchronous: true,
	})
	if err != nil || s.cfg.Feed != FeedWAL {
		return err
	}
	return s.checkWAL(ctx)
}

// Close releases the connections.
func (s *Source) Close() {
	if s.endChores != nil {
		s.endChores()
		s.chores.Wait()
	}
	for _, db := range []**database{&s.work, &s.control, &s.aside} {
		(*db).close()
		*db = nil
	}
	s.hot = nil
}

// Now reads the database's clock.
func (s *Source) Now(ctx context.Context) (driver.DBTime, error) {
	var now dbTime
	err := s.hot.row(ctx, "SELECT clock_timestamp()", nil, &now)
	return now.DBTime, s.failed("read the clock", err)
}

// warm has a connection make its first claim and its first settlement, of nothing: they take
// its backend ten times as long as the later ones, and the lead is not meant for that. An
// error is not reported: the real ones will say the same.
func (s *Source) warm(ctx context.Context, conn *pgx.Conn) {
	const noLane = -1
	if rows, err := conn.Query(ctx, s.jobs().claim, s.claimArgs(driver.ClaimRequest{Lease: driver.Lease{Lane: noLane}, IDs: []int64{}})...); err == nil {
		rows.Close()
	}
	if rows, err := conn.Query(ctx, settleSQL, new(plainSettlements).args()...); err == nil {
		rows.Close()
	}
}

// failed wraps an error of a statement, and drops the pooled connections when
// the server went away: the others lead to the same dead server.
func (s *Source) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	var connectErr *pgconn.ConnectError
	switch {
	case errors.As(err, &connectErr), errors.Is(err, errReadOnly):
		return fmt.Errorf("%s: %w", doing, explain(err))
	case connectionLost(err):
		s.reset()
	case sqlState(err) == pgerrcode.UndefinedTable:
		s.tableGone.Store(true) // the next beat has it looked for
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// reset has every connection made anew before it is used again.
func (s *Source) reset() {
	for _, db := range []*database{s.work, s.control, s.aside} {
		if db != nil {
			db.pool.Reset()
		}
	}
}
