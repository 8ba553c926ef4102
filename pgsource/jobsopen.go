package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Jobs is a JobsAdmin for a program that looks again and again, such as a page that people watch.
//
//	Look   ──► one connection ──► one at a time, in read-only transactions
//	Change ──► another one    ──► one at a time, so that nobody who looks waits for somebody's bulk
//
// A connection is opened by the first who needs it, with the passwords and certificates that its files hold then, and
// closed when nobody has used it for OpenJobsConfig.IdleTime. Before each use it is asked whether it still leads to a
// server that is meant, so that the use after a failover is a good one.
type Jobs struct {
	url          string
	cfg          OpenJobsConfig
	look, change *seat
	timelines    timelines
}

// OpenJobsConfig says how Jobs uses the database. The zero value is good.
type OpenJobsConfig struct {
	// Names are those of the deployment.
	Names Names
	// StatementTimeout is how long a statement may take, on the server. Defaults to 5 s.
	StatementTimeout time.Duration
	// ReadOnly makes Change return ErrReadOnlyJobs.
	ReadOnly bool
	// Standby has Look use whichever host target_session_attrs asks for, which may be behind. By default it looks at the
	// primary, as instances do.
	Standby bool
	// Application is the name of the connections in pg_stat_activity. Defaults to "reactor jobs".
	Application string
	// IdleTime is how long a connection is kept that nobody uses. Defaults to a minute.
	IdleTime time.Duration
}

// ErrReadOnlyJobs is what Change returns with OpenJobsConfig.ReadOnly.
var ErrReadOnlyJobs = errors.New("jobs and schedules cannot be changed here: it is set to read only")

// lookPatience is how long Look takes at most, in multiples of the time that a statement may take.
const lookPatience = 4

// OpenJobs checks the settings; one that cannot be used is a *driver.ConfigError. It does not connect.
func OpenJobs(databaseURL string, cfg OpenJobsConfig) (*Jobs, error) {
	setDefault(&cfg.StatementTimeout, 5*time.Second)
	setDefault(&cfg.IdleTime, time.Minute)
	setDefault(&cfg.Application, "reactor jobs")
	if _, err := cfg.Names.check(); err != nil {
		return nil, err
	}
	if _, err := parseURL(strings.TrimSpace(databaseURL)); err != nil {
		return nil, &driver.ConfigError{Field: "DatabaseURL", Problem: err.Error()}
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"StatementTimeout", cfg.StatementTimeout}, {"IdleTime", cfg.IdleTime}} {
		if d.value < time.Millisecond {
			return nil, &driver.ConfigError{Field: d.field, Value: d.value, Problem: "must be a millisecond at least"}
		}
	}
	j := &Jobs{url: databaseURL, cfg: cfg}
	limit := fmt.Sprintf("; SET LOCAL statement_timeout = '%dms'", cfg.StatementTimeout.Milliseconds())
	looking := opening{names: cfg.Names, accepts: j.isPrimary, chosen: j.arrive, lasting: cfg.Application}
	if cfg.Standby {
		looking.accepts, looking.chosen = nil, nil
	}
	j.look = newSeat(j, looking, limit+"; SET LOCAL transaction_read_only = on")
	j.change = newSeat(j, opening{names: cfg.Names, accepts: j.takesWrites, chosen: j.arrive, lasting: cfg.Application}, limit)
	return j, nil
}

// Look calls do with a JobsAdmin that reads, when nobody else looks. Its methods that change something fail. do must not
// keep it, nor call Look.
//
// An error is one line that says what to do. If it is about the connection, the next Look opens another one.
func (j *Jobs) Look(ctx context.Context, do func(*JobsAdmin) error) error {
	// The server ends a statement in time, unless it is frozen.
	ctx, cancel := context.WithTimeout(ctx, lookPatience*j.cfg.StatementTimeout)
	defer cancel()
	return j.look.with(ctx, do)
}

// Change is Look for what changes jobs or schedules. It takes as long as do does. If the connection was lost, the last
// change may have been made.
func (j *Jobs) Change(ctx context.Context, do func(*JobsAdmin) error) error {
	if j.cfg.ReadOnly {
		return ErrReadOnlyJobs
	}
	return j.change.with(ctx, do)
}

// Close closes the connections, when those who use them have ended. Look and Change fail then.
func (j *Jobs) Close() {
	j.look.close()
	j.change.close()
}

// isPrimary accepts a server that is no standby, and no former primary.
func (j *Jobs) isPrimary(ctx context.Context, conn *pgconn.PgConn) error {
	is, err := j.timelines.look(ctx, conn)
	if is.recovering {
		return errReadOnly
	}
	return err
}

// takesWrites accepts a server that takes writes, and is no former primary.
func (j *Jobs) takesWrites(ctx context.Context, conn *pgconn.PgConn) error {
	is, err := j.timelines.look(ctx, conn)
	if is.readOnly {
		return errReadOnly
	}
	return err
}

// arrive notes where a connection leads that is going to be used. Servers that it has replaced are refused from now on.
func (j *Jobs) arrive(conn *pgconn.PgConn) error {
	_, _, _, err := j.timelines.arrive(conn)
	return err
}

// seat is a connection that one uses at a time.
type seat struct {
	jobs    *Jobs
	opening opening
	limits  string
	// free holds a token while nobody uses the connection. Who has taken it owns admin and closed.
	free   chan struct{}
	admin  *JobsAdmin // nil: there is no connection
	closed bool
	idle   *time.Timer // closes the connection; it is stopped while the connection is used
}

func newSeat(j *Jobs, o opening, limits string) *seat {
	s := &seat{jobs: j, opening: o, limits: limits, free: make(chan struct{}, 1)}
	s.idle = time.AfterFunc(j.cfg.IdleTime, s.unused)
	s.idle.Stop()
	s.free <- struct{}{}
	return s
}

// errJobsClosed: Close was called.
var errJobsClosed = errors.New("the connection to the database is closed")

func (s *seat) with(ctx context.Context, do func(*JobsAdmin) error) error {
	select {
	case <-s.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.free <- struct{}{} }()
	if err := s.sit(ctx); err != nil {
		return explain(err)
	}
	a := s.admin
	defer func() { // also if do panics
		if conn := a.conn.PgConn(); conn.IsClosed() || conn.IsBusy() || conn.TxStatus() != 'I' {
			s.disconnect()
			return
		}
		s.idle.Reset(s.jobs.cfg.IdleTime)
	}()
	a.needs = toLook
	err := do(a) // which determines what it needs
	err = explainRights(ctx, a.conn, a.needs, err)
	switch {
	case err == nil:
		return nil
	case sqlState(err) == pgerrcode.QueryCanceled:
		return explained(err, "the database took longer than %v: ask for less, or try again when it is less busy", s.jobs.cfg.StatementTimeout)
	}
	return explain(err)
}

// sit makes sure that there is a connection.
func (s *seat) sit(ctx context.Context) error {
	s.idle.Stop()
	if s.closed {
		return errJobsClosed
	}
	if s.admin != nil {
		if s.good(ctx) {
			return nil
		}
		s.disconnect()
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := s.opening.connect(ctx, s.jobs.url)
	if err == nil {
		s.admin = &JobsAdmin{conn: conn, limits: s.limits}
	}
	return err
}

// good asks whether the connection leads to a server that is meant.
func (s *seat) good(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if s.opening.accepts == nil {
		return s.admin.conn.Ping(ctx) == nil
	}
	conn := s.admin.conn.PgConn()
	return s.opening.accepts(ctx, conn) == nil && s.opening.chosen(conn) == nil
}

// unused closes a connection that nobody has used for long.
func (s *seat) unused() {
	select {
	case <-s.free:
		s.disconnect()
		s.free <- struct{}{}
	default: // it is being used
	}
}

func (s *seat) disconnect() {
	if s.admin == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = s.admin.conn.Close(ctx) // nothing depends on it
	s.admin = nil
}

func (s *seat) close() {
	<-s.free
	s.closed = true
	s.idle.Stop()
	s.disconnect()
	s.free <- struct{}{}
}
