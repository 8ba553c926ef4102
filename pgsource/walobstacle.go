package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// This file determines what the WAL feed needs of the server, the role and the table, and says what
// to do where something is missing.

// walObstacle returns the reason why the WAL cannot be read, in one line with the remedy; nil if it
// can be read. err means that the question could not be answered. Missing publications are created
// if the role may do that.
//
// Most of it is found out by trying, because managed PostgreSQL services have rights of their own.
// A trial takes a connection, so its answer is kept for a while.
func (s *Source) walObstacle(ctx context.Context, p provision) (obstacle, err error) {
	switch {
	case s.walRuns.Load():
		return nil, nil
	case time.Since(s.walTried) < obstacleKept && s.walObstructed != nil:
		return s.walObstructed, nil
	}
	obstacle, err = s.tryWAL(ctx, p)
	if err == nil {
		s.walTried, s.walObstructed = time.Now(), obstacle
	}
	return obstacle, err
}

// checkWAL makes Open fail where Config.Feed is FeedWAL and the WAL cannot be read.
func (s *Source) checkWAL(ctx context.Context) error {
	p, err := s.provision(ctx)
	if err != nil {
		return err
	}
	obstacle, err := s.tryWAL(ctx, p)
	switch {
	case err != nil:
		return err
	case obstacle != nil:
		return fmt.Errorf("pgsource.Config.Feed is FeedWAL: %w", obstacle)
	}
	if p.triggers {
		s.log.Info("the table jobs has its triggers, which nobody needs where all instances read the WAL: `reactor migrate feed wal` drops them", "table", s.jobs().name)
	}
	return nil
}

// obstacleKept is how long the answer of a failed trial is kept.
const obstacleKept = 30 * time.Second

func (s *Source) tryWAL(ctx context.Context, p provision) (obstacle, err error) {
	obstacle, err = s.tryReplication(ctx)
	if obstacle == nil && err == nil && !p.published {
		obstacle = s.makePublications(ctx)
	}
	return obstacle, err
}

// tryReplication is walObstacle without the publications. It changes nothing.
func (s *Source) tryReplication(ctx context.Context) (obstacle, err error) {
	var (
		level, standbys string
		free, slots     int
	)
	if err := s.background.row(ctx, walServerSQL, nil, &level, &standbys, &slots, &free); err != nil {
		return nil, err
	}
	if obstacle := walServerObstacle(level, standbys); obstacle != nil {
		return obstacle, nil
	}
	if free <= 0 {
		return tooFewSlots(slots), nil
	}
	conn, err := s.connectWAL(ctx)
	if err != nil {
		var pgErr *pgconn.PgError
		if why := explainWAL(err); errors.As(err, &pgErr) || errors.Is(why, errReadOnlyFeed) || errors.Is(why, errPooledWAL) {
			return why, nil
		}
		return nil, explain(err) // the trial could not be made
	}
	closeReplication(conn)
	return nil, nil
}

// walServerSQL reads the settings that the server must have, the number of replication slots, and
// how many of them are free.
const walServerSQL = `
SELECT current_setting('wal_level'), current_setting('synchronous_standby_names'), current_setting('max_replication_slots')::int,
       current_setting('max_replication_slots')::int - (SELECT count(*)::int FROM pg_catalog.pg_replication_slots)`

func walServerObstacle(level, standbys string) error {
	switch {
	case level != "logical":
		return fmt.Errorf("wal_level is %s: run ALTER SYSTEM SET wal_level = logical as a superuser, and restart the server", level)
	case takesAnyStandby(standbys):
		return fmt.Errorf("synchronous_standby_names is %q, so that the server would take our feed for a standby: commits would be confirmed that no standby has, and wait for us: name the standbys there", standbys)
	}
	return nil
}

// takesAnyStandby reports whether every client of the server's log counts as a synchronous standby.
// A feed would count as one, because it reports its position.
func takesAnyStandby(names string) bool { return strings.Contains(names, "*") }

// closeReplication ends a replication connection and waits until the server has closed it. Then its
// slot and its WAL sender are free for the next connection. Without waiting, a server with just as
// many slots as instances would refuse that one.
func closeReplication(conn *pgconn.PgConn) {
	if conn.IsClosed() {
		return
	}
	_ = conn.Conn().SetDeadline(time.Now().Add(closeTimeout))
	conn.Frontend().Send(&pgproto3.Terminate{})
	err := conn.Frontend().Flush()
	for err == nil {
		_, err = conn.ReceiveMessage(context.Background()) // until the deadline
	}
	_ = conn.Close(context.Background())
}

// makePublications creates the publications, or returns why it cannot.
func (s *Source) makePublications(ctx context.Context) error {
	err := publish(ctx, s.withConnection)
	var pgErr *pgconn.PgError
	switch {
	case sqlState(err) == pgerrcode.LockNotAvailable:
		return explained(err, "the table %s is not published, and cannot be for the moment, while somebody changes, vacuums or indexes it: it is tried again", s.jobs().name)
	case sqlState(err) == pgerrcode.InsufficientPrivilege:
		return explained(err, "the table %s is not published, and this role may not do that: run `reactor migrate feed wal` as the owner of the database and the table", s.jobs().name)
	case errors.As(err, &pgErr):
		text, remedy := pgErr.Message, pgErr.Hint
		if pgErr.Detail != "" {
			text += ": " + strings.TrimSuffix(pgErr.Detail, ".")
		}
		if remedy == "" {
			remedy = "put that right"
		}
		return explained(err, "the table %s cannot be published: %s, or use the triggers (set pgsource.Config.Feed to FeedNotify)",
			s.jobs().name, strings.Join(strings.Fields(text+": "+remedy), " "))
	case err != nil:
		return fmt.Errorf("the table %s cannot be published: %w", s.jobs().name, err)
	}
	s.log.Info("the table of jobs is published for the WAL feed", "publications", s.names.In("reactor_jobs_inserted, reactor_jobs_updated"))
	return nil
}

func tooFewSlots(most int) error {
	return fmt.Errorf("all %d replication slots of the server are in use, and each instance needs one: raise max_replication_slots and restart the server, or drop slots that nobody uses (SELECT * FROM pg_replication_slots)", most)
}

// explainWAL turns an error of the replication connection into one line with the remedy.
func explainWAL(err error) error {
	var (
		pgErr      *pgconn.PgError
		connectErr *pgconn.ConnectError
		done       *explainedError
	)
	if errors.As(err, &done) {
		return err
	}
	role := "this role"
	if errors.As(err, &connectErr) && connectErr.Config != nil {
		role = "role " + pgx.Identifier{connectErr.Config.User}.Sanitize()
	}
	if !errors.As(err, &pgErr) {
		return explain(err)
	}
	switch pgErr.Code {
	case pgerrcode.InsufficientPrivilege:
		// Recognize the missing right to connect to the database by the name of the server's
		// routine, which is never translated.
		if pgErr.Routine == "CheckMyDatabase" {
			break
		}
		return explained(err, "%s may not replicate: run ALTER ROLE … REPLICATION as a superuser (managed services: GRANT rds_replication TO …, or as theirs is called)", role)
	case pgerrcode.TooManyConnections:
		if strings.Contains(pgErr.Message, "max_wal_senders") {
			return explained(err, "all WAL senders of the server are in use, and each instance needs one: raise max_wal_senders, and restart the server")
		}
	case pgerrcode.ConfigurationLimitExceeded:
		return explained(err, "all replication slots of the server are in use, and each instance needs one: raise max_replication_slots and restart the server, or drop slots that nobody uses (SELECT * FROM pg_replication_slots)")
	case pgerrcode.ObjectNotInPrerequisiteState:
		if strings.Contains(pgErr.Message, "recovery") {
			return explainReadOnly(err)
		}
		if strings.Contains(pgErr.Message, "wal_level") {
			return explained(err, "wal_level is not logical: run ALTER SYSTEM SET wal_level = logical as a superuser, and restart the server")
		}
	case pgerrcode.UndefinedObject:
		return explained(errors.Join(errUnpublished, err), "%v (%s): it is published again with the next try, if this role may", errUnpublished, pgErr.Message)
	case pgerrcode.SyntaxError: // to IDENTIFY_SYSTEM
		return explained(errors.Join(errPooledWAL, err), "%v: give the database's own address as pgsource.Config.ListenURL", errPooledWAL)
	case pgerrcode.ProtocolViolation, pgerrcode.InvalidParameterValue, pgerrcode.FeatureNotSupported:
		if strings.Contains(pgErr.Message, "replication") {
			return pooledWAL(pgErr.Message, err)
		}
	}
	return explain(err)
}

// errPooledWAL: the feed's connection leads through a pooler.
var errPooledWAL = errors.New("the pooler in between does not carry replication")

// pooledWAL adds what shows that there is a pooler: some poolers refuse a replication connection,
// and some ignore that one was asked for. cause is the refusal; nil if there was none.
func pooledWAL(says string, cause error) error {
	return explained(errors.Join(errPooledWAL, cause), "%v (%s): give the database's own address as pgsource.Config.ListenURL", errPooledWAL, says)
}

// errReadOnlyFeed: the database URL leads to a primary, and the URL of the feed does not.
var errReadOnlyFeed = errors.New("the server that pgsource.Config.ListenURL leads to is read-only (a standby, or default_transaction_read_only is on): give the address of the primary")
