package pgsource

import (
	"regexp"
	"strings"

	"github.com/job-publisher/reactor/internal/naming"
	"github.com/job-publisher/reactor/reactor/driver"
)

// A table of jobs may have partitions by ranges of fire_at. A statement that finds rows by their ids
// alone would search every partition, and already its plan would: with 400 of them that is a tenth
// of a second. So every statement that runs while jobs are fired says between which times its rows
// are due, as parameters, and PostgreSQL leaves out the other partitions when it makes the plan.
// Connections use plan_cache_mode = force_custom_plan for that (database.go): a plan for any
// parameters contains all partitions, takes half a second to make, and is made anew after each
// VACUUM of one of them.
//
// The bounds come from what was read before, and may be outdated: an UPDATE of fire_at moves a row to
// another partition. A row that is not found between its bounds is looked for everywhere before
// anybody concludes that it is gone:
//
//   - claims: what a claim does not get is read again by id, everywhere (LoadIDs)
//   - the journal: if a row is missing, the rows are read again without bounds (recover.go)
//   - returns: what is left waits for the next round of chores, which searches everywhere (returns.go)

// table is the table of jobs, with the statements that use it.
type table struct {
	name   string // qualified
	schema string
	tree   bool // it has partitions or inheritance children

	claim, siftLock, sift, loadWindow, loadRange, loadIDs, journal, unsettled, lockReturns, replaced, handBack, purge string
	waiting, lockOne, touch                                                                                           string
	quarantine, endOutdated                                                                                           string
}

// The texts of the statements contain "{in $1 to $2}" and "{from $1}" where a table with partitions
// needs the bounds of fire_at.
var (
	spans      = regexp.MustCompile(`\{(?:in|from) [^}]*\}`)
	spanFromTo = regexp.MustCompile(`\{in (\S+) to (\S+)\}`)
	spanFrom   = regexp.MustCompile(`\{from (\S+)\}`)
)

// newTable builds the statements. A table without partitions or children is addressed with ONLY, so
// that the place of a row (its ctid) identifies it. In a tree of tables the same ctid exists in
// each table; a row is then identified by its table and its ctid, which makes a claim 4 % slower.
func newTable(n naming.Names, schema string, tree bool) table {
	t := table{name: qualified(n, schema), schema: schema, tree: tree}
	only, place := "ONLY ", claimByPlace
	if tree {
		only, place = "", claimByTableAndPlace
	}
	expand := func(sql string) string {
		sql = strings.NewReplacer("{jobs}", only+t.name).Replace(sql)
		if !tree {
			return spans.ReplaceAllString(strings.Replace(sql, "{with its key}", "", 1), "")
		}
		sql = strings.Replace(sql, "{with its key}", lockedKeySQL, 1)
		sql = spanFromTo.ReplaceAllString(sql, " AND fire_at >= ${1} AND fire_at <= ${2}")
		return spanFrom.ReplaceAllString(sql, " AND fire_at >= ${1}")
	}
	t.claim = expand(strings.Replace(claimSQL, "{claimed}", place, 1))
	t.siftLock, t.sift = expand(siftLockSQL), expand(siftSQL)
	t.loadWindow = expand(loadWindowSQL)
	t.loadRange = expand(loadSQL + "id BETWEEN $3 AND $4{from $5}")
	t.loadIDs = expand(loadSQL + "id = ANY ($3::bigint[]){from $4}")
	t.journal = expand(readJournalSQL)
	t.unsettled = expand(unsettledSQL)
	t.lockReturns, t.replaced, t.handBack = expand(lockReturnsSQL), expand(replacedSQL), expand(handBackSQL)
	t.purge = expand(purgeRetriesSQL)
	t.quarantine, t.endOutdated = expand(quarantineSQL), expand(endOutdatedSQL)
	t.waiting, t.lockOne, t.touch = expand(waitingSQL), expand(lockOneSQL), expand(touchSQL)
	return t
}

// between appends the bounds of fire_at to the parameters of a statement.
func (t *table) between(args []any, from, to driver.DBTime) []any {
	if t.tree {
		args = append(args, dbTime{from}, dbTime{min(to, endOfTime)})
	}
	return args
}

// after is between with a lower bound only.
func (t *table) after(args []any, from driver.DBTime) []any {
	if t.tree {
		args = append(args, dbTime{from})
	}
	return args
}

// endOfTime is later than any fire_at that matters, and a valid timestamp.
const endOfTime driver.DBTime = 1 << 62
