package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"
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
	// folder is that of the database's files, which PostgreSQL names after the oid. It is for poolerserver.go: to look
	// the oid up with every statement costs several times as much.
	folder uint32
	// started is when the server was started, in microseconds since 1970. No two servers have the same,
	// and no server has the same after a restart.
	started int64
}

// standing is what a server does at the moment. One that is recovering is read-only, too. pooled tells that the session is not
// the connection's own.
type standing struct{ recovering, readOnly, pooled bool }

// silence is what a server has refused to tell, as some managed services do. To ask it again would log an error there for
// each connection.
type silence struct {
	started          int64 // place.started of the server
	system, timeline bool
}

// startedSQL, databaseSQL and folderSQL are place.started, place.database and place.folder. The search path may be the role's, so all is qualified.
const (
	startedSQL  = "(pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8"
	databaseSQL = "(SELECT oid FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())"
	folderSQL   = "pg_catalog.split_part(pg_catalog.pg_relation_filepath('pg_catalog.pg_class'::pg_catalog.regclass), '/', -2)"
)

// standingSQL is told by every server; systemSQL and timelineSQL are not.
//
// The timeline is read from the name of the file that the server writes its log to. pg_control_checkpoint
// shows it only from the first checkpoint on that follows the promotion.
const (
	standingSQL = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool, " + startedSQL + ", " + databaseSQL + ", " + folderSQL + ", pg_catalog.pg_backend_pid()"
	systemSQL   = "SELECT system_identifier FROM pg_catalog.pg_control_system()"
	timelineSQL = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN '' ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END"
)

// mostAsked bounds how often a connection is asked where it leads: once, and again for each part that is refused, or
// that another server was known to refuse.
const mostAsked = 6

// placeOf returns where a connection leads, and what the server there does. quiet is what a server is known not to
// tell; placeOf returns what this one does not tell.
//
// All is asked for in one text, which is one transaction: behind a pooler the next text may reach another server. The first error
// ends the text, so it is sent again without what was refused.
func placeOf(ctx context.Context, conn *pgconn.PgConn, quiet silence) (place, standing, silence, error) {
	for range mostAsked {
		at, is, refused, err := askPlace(ctx, conn, quiet)
		if err != nil || is.recovering {
			return at, is, quiet, err
		}
		if quiet.started != at.started {
			leftOut := quiet.system || quiet.timeline
			if quiet = (silence{started: at.started}); leftOut {
				continue // because another server refuses it
			}
		}
		switch refused {
		case "":
			return at, is, quiet, nil
		case systemSQL:
			quiet.system = true
		case timelineSQL:
			quiet.timeline = true
		}
	}
	return place{}, standing{}, quiet, errors.New("each question is answered by another server: let the pooler lead to one server, the primary")
}

// askPlace asks once. refused is the statement that was refused; "": none.
func askPlace(ctx context.Context, conn *pgconn.PgConn, quiet silence) (at place, is standing, refused string, err error) {
	list := []string{standingSQL}
	if !quiet.system {
		list = append(list, systemSQL)
	}
	if !quiet.timeline {
		list = append(list, timelineSQL)
	}
	results, err := conn.Exec(ctx, strings.Join(list, ";")).ReadAll()
	told := map[string][][]byte{}
	for i, result := range results {
		if result.Err == nil && len(result.Rows) == 1 {
			told[list[i]] = result.Rows[0]
		}
	}
	if err != nil {
		if len(told) == 0 || len(told) == len(list) || !isRefusal(err) {
			return place{}, standing{}, "", err
		}
		refused = list[len(told)]
	}
	first := told[standingSQL]
	if first == nil {
		return place{}, standing{}, "", errors.New("the server does not tell in which database we are")
	}
	is = standing{recovering: string(first[0]) == "t", readOnly: string(first[1]) == "t", pooled: string(first[5]) != strconv.FormatUint(uint64(conn.PID()), 10)}
	at.started, _ = strconv.ParseInt(string(first[2]), 10, 64)
	database, _ := strconv.ParseUint(string(first[3]), 10, 32)
	folder, _ := strconv.ParseUint(string(first[4]), 10, 32) // somebody else's PostgreSQL may name them otherwise
	at.database, at.folder = uint32(database), uint32(folder)
	if row := told[systemSQL]; row != nil {
		system, _ := strconv.ParseInt(string(row[0]), 10, 64) // it is shown as a signed number
		at.system = uint64(system)
	}
	if row := told[timelineSQL]; row != nil {
		at.timeline = parseTimeline(string(row[0]))
	}
	return at, is, refused, nil
}

// isRefusal reports whether a server does not answer a question, rather than not now.
func isRefusal(err error) bool {
	return sqlState(err) != "" && !connectionLost(err) && !limited(err) && !pgerrcode.IsInsufficientResources(sqlState(err))
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
