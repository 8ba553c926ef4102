package pgsource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// A search ends in bounded time whatever the table and the filter. It reads a number of rows in an order that an index has,
// returns those that pass, and says where it has stopped; who wants more goes on from there. So a topic that three of ten
// million jobs have is found after some steps, each of which takes no longer than the others.
//
//	waiting, also with retrying    in order of fire_at, the next first, by jobs_pending
//	and blocked
//	certain ids                    by id, the newest first, by the primary key
//	neither waiting nor fired      by id, the newest first, from the journal and the notes
//	all others                     by id, the newest first, by the primary key
//
// There is no index that has all jobs in order of fire_at: each claim would write to it. Ids are given in the order
// in which jobs are inserted.

// SearchPage says which part of the result is wanted.
type SearchPage struct {
	// Limit is the largest number of jobs, 1 to 10,000. Defaults to 50.
	Limit int
	// After is where the page before has ended; nil: the first page.
	After *SearchCursor
	// Rows is how many rows are read at most, about. Defaults to 20,000.
	Rows int
}

// SearchResult is a part of the result.
type SearchResult struct {
	Jobs []Job
	// Next is where the next part begins; nil: this was the last. If there is one and there are fewer Jobs than
	// SearchPage.Limit, the search was broken off there: "searched until here".
	Next *SearchCursor
	// ByID: the newest ids come first; otherwise the next to fire.
	ByID bool
}

// SearchCursor is a place in the result of a search.
type SearchCursor struct {
	JobCursor
	byID bool
}

// String is the cursor as a text for ParseSearchCursor.
func (c SearchCursor) String() string {
	if c.byID {
		return "id" + strconv.FormatInt(c.ID, 10)
	}
	return c.JobCursor.String()
}

// ParseSearchCursor reads a text of SearchCursor.String.
func ParseSearchCursor(text string) (c SearchCursor, err error) {
	if id, byID := strings.CutPrefix(text, "id"); byID {
		c.byID = true
		c.ID, err = strconv.ParseInt(id, 10, 64)
		if err != nil {
			err = errNoPlace
		}
		return c, err
	}
	c.JobCursor, err = ParseJobCursor(text)
	return c, err
}

const (
	searchRows     = 20_000
	mostSearchRows = 1_000_000
)

// Search returns the jobs that pass a filter, in the order that their states have.
func (a *JobsAdmin) Search(ctx context.Context, filter JobFilter, page SearchPage) (result SearchResult, err error) {
	setDefault(&page.Limit, 50)
	setDefault(&page.Rows, searchRows)
	switch {
	case page.Limit < 1 || page.Limit > mostListed:
		return result, &driver.ConfigError{Field: "Limit", Value: page.Limit, Problem: fmt.Sprintf("must be 1 to %d", mostListed)}
	case page.Rows < 1 || page.Rows > mostSearchRows:
		return result, &driver.ConfigError{Field: "Rows", Value: page.Rows, Problem: fmt.Sprintf("must be 1 to %d", mostSearchRows)}
	}
	a.needs = a.needs.and(toLook)
	if err := a.find(ctx); err != nil {
		return result, err
	}
	s := search{a: a, filter: filter, page: page}
	if result.ByID = s.byID(); page.After != nil && page.After.byID != result.ByID {
		return result, errNoPlace
	}
	err = a.tx(ctx, func(tx pgx.Tx) (err error) {
		if result.Jobs, result.Next, err = s.rounds(ctx, tx); err != nil {
			return err
		}
		jobs := make([]*Job, len(result.Jobs))
		for i := range result.Jobs {
			jobs[i] = &result.Jobs[i]
		}
		if err := nameSchedules(ctx, tx, jobs); err != nil {
			return err
		}
		if len(jobs) > mostExplained { // for a machine, which does not read it
			return nil
		}
		return a.explainOrder(ctx, tx, jobs)
	})
	return result, err
}

// mostExplained is up to how many jobs Search says for which others they wait.
const mostExplained = 500

// search is one Search.
type search struct {
	a      *JobsAdmin
	filter JobFilter
	page   SearchPage
}

// byID is whether the order is that of ids.
func (s search) byID() bool {
	return s.filter.IDs != nil || !slices.Contains(s.filter.States, JobWaiting) || slices.ContainsFunc(s.filter.States, func(state JobState) bool { return !slices.Contains(unfiredStates, state) })
}

// rounds reads some rows, and ever more while too few of them pass: where most do, few are read, and where few do, there are few
// rounds.
func (s search) rounds(ctx context.Context, tx pgx.Tx) (list []Job, after *SearchCursor, err error) {
	round := s.next
	if s.byID() {
		round = s.newest
	}
	most, limit := s.page.Rows, s.page.Limit
	after = s.page.After
	for rows := 4 * limit; ; rows *= 8 {
		rows = max(1, min(rows, most))
		most -= rows
		found, next, err := round(ctx, tx, JobPage{Limit: limit - len(list)}, rows, after)
		list, after = append(list, found...), next
		if err != nil || after == nil || len(list) == limit || most <= 0 {
			return list, after, err
		}
	}
}

func (s search) read(ctx context.Context, tx pgx.Tx, sql string, args parameters) (list []Job, err error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (j Job, err error) { return j, row.Scan(j.fields()...) })
}

// next searches in order of fire_at. What each shard has within its part of the rows bounds what is read of all.
func (s search) next(ctx context.Context, tx pgx.Tx, page JobPage, rows int, begin *SearchCursor) (list []Job, after *SearchCursor, err error) {
	if begin != nil {
		page.After = &begin.JobCursor
	}
	if s.filter.Key == "" {
		var args parameters
		bounds := JobFilter{From: s.filter.From, Until: s.filter.Until}.conditions(&args)
		if page.After != nil {
			bounds = append(bounds, fmt.Sprintf("(job.fire_at, job.id) > (%s, %s)", args.place(*page.After), args.add(page.After.ID, "bigint")))
		}
		var end JobCursor
		err := tx.QueryRow(ctx, `
			SELECT `+micros("one.fire_at")+`, `+beyond("one.fire_at")+` * 1000, one.id FROM generate_series(0, `+fmt.Sprint(driver.Shards-1)+`) AS s (shard) CROSS JOIN LATERAL (
			       SELECT job.fire_at, job.id FROM `+s.a.jobs+` AS job WHERE `+ofShard+` AND `+and(bounds)+` ORDER BY job.fire_at, job.id OFFSET `+args.add(max(1, rows/driver.Shards)-1, "bigint")+` LIMIT 1) AS one
			 ORDER BY one.fire_at, one.id LIMIT 1`, args...).Scan(&end.FireAt, &end.Beyond, &end.ID)
		switch {
		case errors.Is(err, pgx.ErrNoRows): // it reads all that is left
		case err != nil:
			return nil, nil, err
		default:
			page.until = &end
		}
	}
	var args parameters
	sql := ""
	if s.filter.Key != "" {
		sql = s.a.listSQL(&args, s.filter, page, page.Limit+1)
	} else {
		sql = s.nextSQL(&args, page)
	}
	list, err = s.read(ctx, tx, sql, args)
	switch {
	case err != nil:
	case len(list) > page.Limit:
		list = list[:page.Limit]
		after = &SearchCursor{JobCursor: list[page.Limit-1].Cursor()}
	case page.until != nil:
		after = &SearchCursor{JobCursor: *page.until}
	}
	return list, after, err
}

// nextSQL reads the rows of all shards up to the bound, which are not many, and joins the notes once. A join in each shard may
// read all the records of failed jobs for each.
func (s search) nextSQL(args *parameters, page JobPage) string {
	conditions := s.filter.conditions(args)
	if page.After != nil {
		conditions = append(conditions, fmt.Sprintf("(job.fire_at, job.id) > (%s, %s)", args.place(*page.After), args.add(page.After.ID, "bigint")))
	}
	if page.until != nil {
		conditions = append(conditions, fmt.Sprintf("(job.fire_at, job.id) <= (%s, %s)", args.place(*page.until), args.add(page.until.ID, "bigint")))
	}
	source := fmt.Sprintf("(SELECT one.* FROM generate_series(0, %d) AS s (shard) CROSS JOIN LATERAL (SELECT job.xmin, job.* FROM %s AS job WHERE %s AND %s ORDER BY job.fire_at, job.id OFFSET 0) AS one OFFSET 0) AS job",
		driver.Shards-1, s.a.jobs, ofShard, and(conditions))
	return "WITH " + journalCTE + " SELECT " + readJobColumns + " FROM (SELECT" + listedColumns + " FROM " + source + notesJoin + " WHERE " + and(append(s.filter.reasons(args), s.states(args)...)) +
		fmt.Sprintf(" ORDER BY job.fire_at, job.id LIMIT %d) AS listed ORDER BY fire_at, id", page.Limit+1)
}

// states are the condition of the states.
func (s search) states(args *parameters) []string {
	if len(s.filter.States) == 0 {
		return nil
	}
	words := make([]string, len(s.filter.States))
	for i, state := range s.filter.States {
		words[i] = string(state)
	}
	return []string{"(" + stateSQL + ") = ANY (" + args.add(words, "text[]") + ")"}
}

// newest searches in the order of ids, from the newest. It first finds out how far down it gets with the rows that it may
// read, and then reads what is above that.
func (s search) newest(ctx context.Context, tx pgx.Tx, page JobPage, rows int, begin *SearchCursor) (list []Job, after *SearchCursor, err error) {
	var (
		args parameters
		read int64
		last *int64
	)
	sql := "WITH " + journalCTE + " SELECT count(*), min(id) FROM (" + s.ids(&args, rows, begin) + ") AS newest"
	if err := tx.QueryRow(ctx, sql, args...).Scan(&read, &last); err != nil || last == nil {
		return nil, nil, err
	}
	args = nil
	source := "(SELECT j.xmin, j.* FROM " + s.a.jobs + " AS j WHERE " + before(&args, "j.id", begin) + " AND j.id >= " + args.add(*last, "bigint") + " ORDER BY j.id DESC OFFSET 0) AS job"
	if s.noted() || s.filter.Key != "" || s.filter.IDs != nil {
		args = nil
		source = "(" + s.ids(&args, rows, begin) + ") AS noted (id) CROSS JOIN LATERAL (SELECT j.xmin, j.* FROM " + s.a.jobs + " AS j WHERE j.id = noted.id AND j.id >= " + args.add(*last, "bigint") + " OFFSET 0) AS job"
	}
	conditions := slices.Concat(s.filter.conditions(&args), s.filter.reasons(&args), s.states(&args))
	sql = "WITH " + journalCTE + " SELECT " + readJobColumns + " FROM (SELECT" + listedColumns + " FROM " + source + notesJoin + " WHERE " + and(conditions) +
		fmt.Sprintf(" ORDER BY job.id DESC LIMIT %d) AS listed ORDER BY id DESC", page.Limit+1)
	list, err = s.read(ctx, tx, sql, args)
	switch {
	case err != nil:
	case len(list) > page.Limit:
		list = list[:page.Limit]
		after = &SearchCursor{JobCursor: JobCursor{ID: list[page.Limit-1].ID}, byID: true}
	case read == int64(rows):
		after = &SearchCursor{JobCursor: JobCursor{ID: *last}, byID: true}
	}
	return list, after, err
}

// noted is whether all jobs of the states are in the journal or the notes.
func (s search) noted() bool {
	return len(s.filter.States) > 0 && !slices.Contains(s.filter.States, JobWaiting) && !slices.Contains(s.filter.States, JobFired)
}

// before is the condition of what lies behind a cursor, by id.
func before(args *parameters, column string, begin *SearchCursor) string {
	if begin == nil {
		return "true"
	}
	return column + " < " + args.add(begin.ID, "bigint")
}

// ids are the next ids of the places that have jobs of the states, as many as rows are to be read, and each once.
func (s search) ids(args *parameters, rows int, begin *SearchCursor) string {
	end := " ORDER BY id DESC LIMIT " + args.add(rows, "bigint")
	place := func(source, column, where string) string {
		return "(SELECT " + column + " AS id FROM " + source + " WHERE " + before(args, column, begin) + where + end + ")"
	}
	switch {
	case s.filter.IDs != nil:
		return place(s.a.jobs, "id", " AND id = ANY ("+args.add(s.filter.IDs, "bigint[]")+")")
	case s.filter.Key != "":
		is := " AND key = " + args.add(s.filter.Key, "text") + " AND "
		return "SELECT DISTINCT id FROM (" + place(s.a.jobs, "id", is+"processed") + " UNION ALL " + place(s.a.jobs, "id", is+"NOT processed") + ") AS places" + end
	case s.noted():
		// As listSQL has it: what is on its way is not looked for among a hundred thousand that have failed.
		var places []string
		for _, noted := range []struct {
			states         []JobState
			source, column string
		}{
			{[]JobState{JobBlocked, JobFailed, JobExpired, JobMissed}, "reactor.failed_jobs", "job_id"},
			{[]JobState{JobRetrying, JobReturning}, "reactor.retries", "job_id"},
			{[]JobState{JobFiring}, "journal", "id"},
		} {
			if slices.ContainsFunc(noted.states, func(state JobState) bool { return slices.Contains(s.filter.States, state) }) {
				places = append(places, place(noted.source, noted.column, ""))
			}
		}
		return "SELECT DISTINCT id FROM (" + strings.Join(places, " UNION ALL ") + ") AS places" + end
	}
	return place(s.a.jobs, "id", "")
}

// SelectSome returns the ids of jobs that pass a filter, up to a number, and whether there may be more: because there are more,
// or because a hundred times as many rows were read. It reads as Search does, in short transactions. Act takes the
// ids: so what somebody confirms is what is done.
func (a *JobsAdmin) SelectSome(ctx context.Context, filter JobFilter, most int) (ids []int64, more bool, err error) {
	var after *SearchCursor
	for read := 0; ; read += searchRows {
		if read >= max(100*most, 10*searchRows) {
			return ids, true, nil
		}
		found, err := a.Search(ctx, filter, SearchPage{Limit: max(1, min(most-len(ids), mostListed)), After: after})
		if err != nil {
			return nil, false, err
		}
		for _, job := range found.Jobs {
			if len(ids) == most {
				return ids, true, nil
			}
			ids = append(ids, job.ID)
		}
		if found.Next == nil {
			return ids, false, nil
		}
		after = found.Next
	}
}
