package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// place is where a connection leads: to which database, of which cluster, in which of its histories,
// and to which run of which server. A member that is 0 was not told, and is compared with nothing.
type place struct {
	// system is the cluster's identifier. Its upper half is the time in seconds at which the cluster was
	// made (initdb), so of two clusters the one that was made later has the higher number. A standby
	// has that of its primary; a cluster that a dump was restored into, or that pg_upgrade has made, has
	// its own.
	system uint64
	// timeline grows with each promotion.
	timeline uint32
	// database is its oid. A database that was dropped and restored has another one.
	database uint32
	// started is when the server was started, in microseconds since 1970. No two servers have the same,
	// and no server has the same after a restart.
	started int64
}

// startedSQL is place.started. The search path may be the role's, so all is qualified.
const startedSQL = "(pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8"

// placeSQL reads a place, systemSQL included, in one round trip. Each statement is refused by some managed
// services, and the first error ends the text.
//
// The timeline is read from the name of the file that the server writes its log to. pg_control_checkpoint
// shows it only from the first checkpoint on that follows the promotion.
const (
	placeSQL = "SELECT " + startedSQL + ", oid FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database();" +
		"SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())"
	systemSQL = ";SELECT system_identifier FROM pg_catalog.pg_control_system()"
)

// placeOf returns where a connection to a primary leads. With askSystem false the cluster's identifier is not
// asked for; mayAsk tells whether it may be.
func placeOf(ctx context.Context, conn *pgconn.PgConn, askSystem bool) (at place, mayAsk bool, err error) {
	text := placeSQL
	if askSystem {
		text += systemSQL
	}
	results, err := conn.Exec(ctx, text).ReadAll()
	refused := (*pgconn.PgError)(nil)
	if err != nil && !(errors.As(err, &refused) && refused.SeverityUnlocalized == "ERROR") {
		return place{}, askSystem, err
	}
	// value is what a statement has returned, "" if it was refused.
	value := func(statement, column int) string {
		if statement >= len(results) || results[statement].Err != nil || len(results[statement].Rows) != 1 {
			return ""
		}
		return string(results[statement].Rows[0][column])
	}
	at.started, _ = strconv.ParseInt(value(0, 0), 10, 64)
	if oid, err := strconv.ParseUint(value(0, 1), 10, 32); err == nil {
		at.database = uint32(oid)
	}
	at.timeline = parseTimeline(value(1, 0))
	// It is shown as a signed number.
	if system, err := strconv.ParseInt(value(2, 0), 10, 64); err == nil {
		at.system = uint64(system)
	}
	return at, askSystem && at.system != 0, nil
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

// move is what has changed from one place to another.
type move int

const (
	stayed         move = iota
	restarted           // the server was started again, or it is another one on the same timeline
	promoted            // another server was promoted
	otherDatabase       // another database, of the same cluster or of another one
	formerPrimary       // back to an earlier timeline
	earlierCluster      // to a cluster that was made before
)

// moveTo tells what has changed. The order of clusters and timelines is the same for all instances, whatever they have
// seen: so two servers that take writes do not have an instance go back and forth.
func (p place) moveTo(next place) move {
	differs := func(a, b uint64) bool { return a != b && a != 0 && b != 0 }
	switch {
	case differs(p.system, next.system) && next.system < p.system:
		return earlierCluster
	case differs(p.system, next.system):
		return otherDatabase
	case differs(uint64(p.timeline), uint64(next.timeline)) && next.timeline < p.timeline:
		return formerPrimary
	case differs(uint64(p.database), uint64(next.database)):
		return otherDatabase
	case differs(uint64(p.timeline), uint64(next.timeline)):
		return promoted
	case differs(uint64(p.started), uint64(next.started)):
		return restarted
	}
	return stayed
}

// with fills what a connection to the same place has not told.
func (p place) with(earlier place) place {
	setDefault(&p.system, earlier.system)
	setDefault(&p.timeline, earlier.timeline)
	setDefault(&p.database, earlier.database)
	setDefault(&p.started, earlier.started)
	return p
}

// formerServerError is why a server is refused that takes writes.
type formerServerError struct{ its, latest place }

func (e *formerServerError) Error() string {
	switch e.latest.moveTo(e.its) {
	case earlierCluster:
		return fmt.Sprintf("the server belongs to another cluster, which was made before the one that the database was in last (system identifiers %d and %d): correct the database URL, or the name in it; if the database was moved there on purpose, restart the instances", e.its.system, e.latest.system)
	case formerPrimary:
		return fmt.Sprintf("the server is on timeline %d, and the database has moved on to timeline %d: it is a former primary that still takes writes: stop it; if it was restored on purpose, restart the instances", e.its.timeline, e.latest.timeline)
	}
	return fmt.Sprintf("two servers on timeline %d take writes, and this is not the one that was used last: stop one of them, and restart the instances if it is the other one", e.its.timeline)
}

// briefly is Error in a few words.
func (e *formerServerError) briefly() string {
	switch e.latest.moveTo(e.its) {
	case earlierCluster:
		return "belongs to an earlier cluster"
	case formerPrimary:
		return fmt.Sprintf("is a former primary (on timeline %d, the latest is %d)", e.its.timeline, e.latest.timeline)
	}
	return fmt.Sprintf("is a second primary on timeline %d", e.its.timeline)
}
