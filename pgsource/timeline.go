package pgsource

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/reactor/driver"
)

// A server that is promoted begins another timeline, with a higher number. So the place of each
// new connection (place.go) tells whether the database has failed over, and whether a server is one that was
// replaced and still takes writes.
//
// A standby that was promoted may lack the last commits of the old primary. Nothing in the database
// tells whether it does, so each failover counts as one that may have lost some. So does a restart: two standbys
// that were promoted from one primary are on the same timeline, and the other one looks like this one after
// a restart.
//
//	a connection leads to a later place, which begins another era
//	   ├─► all other connections are cut, and statements that wait for one are not sent
//	   ├─► the feed ends, and says so first: each lane compares the journal with its memory
//	   └─► a lane claims nothing until its journal was read in the new era: what the lane
//	       believes to be free may be in use there
//
// An earlier place is refused for as long as the process lives. To publish what its
// table says would publish again what was published from the new one.
//
// Another cluster, and another database with the same name, is a copy, whatever made it: a dump that was restored,
// pg_upgrade, logical replication. There the membership ends, and begins again with what Open checks and with a
// name of its own (identity.go).
type timelines struct {
	mu        sync.Mutex
	latest    place           // guarded by mu; the zero value: there was no connection
	left      []int64         // guarded by mu: place.started of the servers on the latest timeline that were left
	era       int64           // guarded by mu: how often the latest place has changed
	failovers int64           // guarded by mu: how often it was promoted or another database
	told      int64           // guarded by mu: the latest era that the lanes were told of
	read      map[int32]int64 // guarded by mu: in which era the journal of a lane was read last
	unchecked bool            // guarded by mu: it is another database, and was not checked yet
	quiet     silence         // guarded by mu: what the server does not tell that was asked last
}

// mostLeft bounds timelines.left. Each restart adds one.
const mostLeft = 16

// errFailedOver: the statement was not sent, because the database has failed over since it was made.
var errFailedOver = errors.New("the database has failed over, or was restarted; trying again")

// see notes the place of a connection. It returns what has changed, and the era.
func (t *timelines) see(at place) (what move, before place, era int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before = t.latest
	what, err = t.judge(at)
	switch {
	case err != nil:
		return what, before, t.era, err
	case what == stayed:
		t.latest = at.with(before)
		return what, before, t.era, nil
	case what == restarted:
		t.left = append(t.left, before.started)
		t.left = t.left[max(0, len(t.left)-mostLeft):]
		at = at.with(before)
	default:
		t.left = nil
		t.failovers++
	}
	t.latest = at
	t.era++
	t.unchecked = t.unchecked || what == otherDatabase
	return what, before, t.era, nil
}

// judge returns what would change, or a *formerServerError. The caller holds mu.
func (t *timelines) judge(at place) (move, error) {
	what := t.latest.moveTo(at)
	if what == formerPrimary || what == earlierCluster || what == restarted && slices.Contains(t.left, at.started) {
		return what, &formerServerError{at, t.latest}
	}
	return what, nil
}

// placeKey and eraKey are where a connection has its place, and the era in which it was chosen, among what may be stored with it.
const placeKey, eraKey = "reactor place", "reactor era"

// eraOf returns the era in which a connection was chosen.
func eraOf(conn *pgconn.PgConn) int64 {
	era, _ := conn.CustomData()[eraKey].(int64)
	return era
}

// look asks a new connection where it leads, and refuses a server that was replaced. Nothing is noted of the place before the
// connection is chosen (arrive): of several hosts that take writes one is used, and the others have changed nothing.
func (t *timelines) look(ctx context.Context, conn *pgconn.PgConn) (standing, error) {
	t.mu.Lock()
	quiet := t.quiet
	t.mu.Unlock()
	at, is, quiet, err := placeOf(ctx, conn, quiet)
	if err != nil || is.recovering { // a standby has no place
		return is, err
	}
	conn.CustomData()[placeKey] = at
	t.mu.Lock()
	defer t.mu.Unlock()
	t.quiet = quiet
	_, err = t.judge(at)
	return is, err
}

// arrive is see for a connection that look has accepted and that was chosen. One that was not looked at changes nothing.
func (t *timelines) arrive(conn *pgconn.PgConn) (what move, at, before place, err error) {
	at, looked := conn.CustomData()[placeKey].(place)
	if !looked {
		return stayed, at, at, nil
	}
	what, before, era, err := t.see(at)
	conn.CustomData()[eraKey] = era
	return what, at, before, err
}

// untold reports whether the lanes were not told of the latest era yet, and takes it that they are told
// now. They claim nothing before they have read their journals, so it must not get lost: a failover
// may be seen while no feed is running, and the next feed may not stand for long.
func (t *timelines) untold() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.told == t.era {
		return false
	}
	t.told = t.era
	return true
}

// now returns the era.
func (t *timelines) now() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.era
}

// journalRead notes that the journal of a lane was read in an era. It returns errFailedOver if that is over: the
// journal is to be read again. In a database that was not checked the lane is not ours.
func (t *timelines) journalRead(lane int32, era int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if era != t.era {
		return &notSentError{errFailedOver}
	}
	if t.unchecked {
		return driver.ErrLeaseLost
	}
	if t.read == nil {
		t.read = map[int32]int64{}
	}
	t.read[lane] = era
	return nil
}

// mayClaim reports whether a lane may claim over a connection of an era: it is the present one, and the journal
// of the lane was read in it, or there has been no other one.
func (t *timelines) mayClaim(lane int32, era int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return era == t.era && !t.unchecked && (era == 0 || t.read[lane] == era)
}

// elsewhere reports whether the database is another one, and was not checked yet; checked, that it was checked, if
// there was no other era since.
func (t *timelines) elsewhere() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unchecked
}

func (t *timelines) checked(era int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unchecked = t.unchecked && era != t.era
}

// state returns the latest timeline, and how many failovers there were.
func (t *timelines) state() (latest uint32, failovers int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.latest.timeline, t.failovers
}

// where returns the place that was used last.
func (t *timelines) where() place {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.latest
}

// accepts checks that a new connection leads to a server that takes writes and was not replaced.
func (s *Source) accepts(ctx context.Context, conn *pgconn.PgConn) error {
	is, err := s.timelines.look(ctx, conn)
	if is.pooled && s.direct {
		return errPoolerNow
	}
	if !is.readOnly {
		return err
	}
	if s.pooled {
		endStale(ctx, conn)
	}
	return errReadOnly
}

// arrive notes where a connection leads that is going to be used. If it is the first one to another place, everything
// else is dropped.
func (s *Source) arrive(conn *pgconn.PgConn) error {
	what, at, before, err := s.timelines.arrive(conn)
	if err != nil {
		return err
	}
	switch what {
	case stayed:
		return nil
	case restarted:
		s.log.Info("the database was restarted, or is another server on the same timeline; the lanes compare their journals with it", "timeline", at.timeline)
	case otherDatabase:
		s.log.Warn("the database is another one: it was moved or restored; joining it anew", "system_identifier", at.system, "before", before.system)
	default:
		s.log.Warn("the database has failed over: another server was promoted; the lanes compare their journals with it", "timeline", at.timeline, "before", before.timeline)
	}
	s.starts.forget()
	s.settled.forget()
	s.pools.giveUp(errFailedOver)
	s.moves.tell()
	return nil
}

// acceptsForFeed is accepts for the connection of the feed, which leads straight to a server. A
// ListenURL of its own may lead to a server whose timelines are others.
func (s *Source) acceptsForFeed(ctx context.Context, conn *pgconn.PgConn) error {
	if s.cfg.ListenURL == s.cfg.DatabaseURL && !s.pooled {
		return s.accepts(ctx, conn)
	}
	return takesWrites(ctx, conn)
}

// elsewhereError ends a membership, as driver.ErrDeposed does.
type elsewhereError struct{}

func (elsewhereError) Error() string        { return "the database is another one than before" }
func (elsewhereError) Is(target error) bool { return target == driver.ErrDeposed }

// ended returns an elsewhereError if the database is another one than when the member joined.
func (m *member) ended() error {
	if m.timelines.elsewhere() {
		return elsewhereError{}
	}
	return nil
}

// checkElsewhere does in another database what Open has done in the first one. The search path of the role is not
// looked at again: applications that insert into another table of that name are found out at the next start.
func (s *Source) checkElsewhere(ctx context.Context) error {
	if !s.timelines.elsewhere() {
		return nil
	}
	era := s.timelines.now()
	found, err := s.findTable(ctx, nil)
	if err != nil {
		return err
	}
	s.table.Store(&found)
	if err := s.checkRights(ctx); err != nil {
		return err
	}
	if err := s.identify(ctx); err != nil {
		return err
	}
	s.timelines.checked(era)
	return nil
}
