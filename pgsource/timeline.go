package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// A server that is promoted begins another timeline, with a higher number. So the timeline of each
// new connection tells whether the database has failed over, and whether a server is one that was
// replaced and still takes writes.
//
// A standby that was promoted may lack the last commits of the old primary. Nothing in the database
// tells whether it does, so each failover counts as one that may have lost some:
//
//	a connection is on a later timeline
//	   ├─► all other connections are cut, and statements that wait for one are not sent
//	   ├─► the feed ends, and says so first: each lane compares the journal with its memory
//	   └─► a lane claims nothing until its journal was read on the new timeline: what the lane
//	       believes to be free may be in use there
//
// A server on an earlier timeline is refused for as long as the process lives. To publish what its
// table says would publish again what was published from the new one.
type timelines struct {
	mu        sync.Mutex
	latest    uint32           // guarded by mu: the highest timeline that was seen; 0: none
	failovers int64            // guarded by mu: how often it has grown
	told      int64            // guarded by mu: how many of the failovers the lanes were told of
	read      map[int32]uint32 // guarded by mu: on which timeline the journal of a lane was read last
}

// errFailedOver: the statement was not sent, because the database has failed over since it was made.
var errFailedOver = errors.New("the database has failed over; trying again")

// formerPrimaryError is why a server is refused that takes writes.
type formerPrimaryError struct{ its, latest uint32 }

func (e *formerPrimaryError) Error() string {
	return fmt.Sprintf("the server is on timeline %d, and the database has moved on to timeline %d: it is a former primary that still takes writes: stop it; if it was restored on purpose, restart the instances", e.its, e.latest)
}

// timelineSQL reads the timeline from the name of the file that the server writes its log to.
// pg_control_checkpoint shows it only from the first checkpoint on that follows the promotion.
const timelineSQL = "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())"

// timelineOf returns the timeline of a connection to a primary, or 0 if the server does not say.
func timelineOf(ctx context.Context, conn *pgconn.PgConn) (uint32, error) {
	results, err := conn.Exec(ctx, timelineSQL).ReadAll()
	if refused := (*pgconn.PgError)(nil); errors.As(err, &refused) && refused.SeverityUnlocalized == "ERROR" {
		return 0, nil // some managed services keep their log elsewhere
	}
	if err != nil || len(results) != 1 || len(results[0].Rows) != 1 {
		return 0, err
	}
	return parseTimeline(string(results[0].Rows[0][0])), nil
}

// parseTimeline returns the timeline in the name of a file of the log, which begins with it in eight
// hexadecimal digits.
func parseTimeline(file string) uint32 {
	if len(file) < 8 {
		return 0
	}
	n, err := strconv.ParseUint(file[:8], 16, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// see notes the timeline of a connection. failed tells that it is a later one than before.
func (t *timelines) see(timeline uint32) (failed bool, before uint32, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch before = t.latest; {
	case timeline == 0 || timeline == before:
		return false, before, nil
	case timeline < before:
		return false, before, &formerPrimaryError{timeline, before}
	}
	t.latest = timeline
	if before == 0 {
		return false, before, nil
	}
	t.failovers++
	return true, before, nil
}

// untold reports whether the lanes were not told of a failover yet, and takes it that they are told
// now. They claim nothing before they have read their journals, so it must not get lost: a failover
// may be seen while no feed is running, and the next feed may not stand for long.
func (t *timelines) untold() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.told == t.failovers {
		return false
	}
	t.told = t.failovers
	return true
}

// now returns the latest timeline.
func (t *timelines) now() uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.latest
}

// journalRead notes that the journal of a lane was read by a statement that began on a timeline.
func (t *timelines) journalRead(lane int32, timeline uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.read == nil {
		t.read = map[int32]uint32{}
	}
	t.read[lane] = timeline
}

// mayClaim reports whether the journal of a lane was read on the latest timeline, or there has been
// no other one.
func (t *timelines) mayClaim(lane int32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failovers == 0 || t.read[lane] == t.latest
}

// state returns the latest timeline, and how many failovers there were.
func (t *timelines) state() (latest uint32, failovers int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.latest, t.failovers
}

// isCurrent checks that a new connection leads to a server that takes writes and was not replaced.
// If it is the first one to a server that was promoted, everything else is dropped.
func (s *Source) isCurrent(ctx context.Context, conn *pgconn.PgConn) error {
	takes := takesWrites
	if s.pooled {
		takes = takesWritesPooled
	}
	if err := takes(ctx, conn); err != nil {
		return err
	}
	timeline, err := timelineOf(ctx, conn)
	if err != nil {
		return err
	}
	failed, before, err := s.timelines.see(timeline)
	if err != nil || !failed {
		return err
	}
	s.log.Warn("the database has failed over: another server was promoted; the lanes compare their journals with it", "timeline", timeline, "before", before)
	s.starts.forget()
	s.settled.forget()
	s.pools.giveUp(errFailedOver)
	s.moves.tell()
	return nil
}

// isCurrentForFeed is isCurrent for the connection of the feed, which leads straight to a server. A
// ListenURL of its own may lead to a server whose timelines are others.
func (s *Source) isCurrentForFeed(ctx context.Context, conn *pgconn.PgConn) error {
	if s.cfg.ListenURL == s.cfg.DatabaseURL && !s.pooled {
		return s.isCurrent(ctx, conn)
	}
	return takesWrites(ctx, conn)
}
