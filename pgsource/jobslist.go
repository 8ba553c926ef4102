package pgsource

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// JobFilter selects jobs. The zero value selects all.
type JobFilter struct {
	// States are those that are wanted; empty: all.
	States []JobState
	// TopicPrefix is what the topic begins with.
	TopicPrefix string
	// Key is the key, as a whole.
	Key string
	// IDs are the ids of the jobs that are wanted; nil: any.
	IDs []int64
	// Schedule is the id of the schedule that the job is an occurrence of, as ScheduleID finds it; 0: any, or none.
	Schedule int64
	// From and Until bound fire_at, the second not included. nil: no bound.
	From, Until *driver.DBTime
	// Because is why they were refused or could not be claimed; nil: any reason, or none.
	Because *JobReason
}

// JobPage says which part of a list is wanted.
type JobPage struct {
	// Limit is the largest number of jobs, 1 to 10,000. Defaults to 50.
	Limit int
	// After is where the page before has ended; nil: the first page.
	After *JobCursor
	// Latest reverses the order: the latest fire_at comes first.
	Latest bool
	// until is the last place that is listed; nil: no bound.
	until *JobCursor
}

// mostListed is the largest JobPage.Limit.
const mostListed = 10_000

// JobCursor is a place in a list, which is in order of fire_at, and of id within one instant.
type JobCursor struct {
	FireAt driver.DBTime
	ID     int64
	// Beyond is as in Job. Without it, pages would mix up the jobs of the last years.
	Beyond time.Duration
}

// String is the cursor as a text for ParseJobCursor.
func (c JobCursor) String() string {
	if c.Beyond > 0 {
		return fmt.Sprintf("%d+%d:%d", int64(c.FireAt), c.Beyond.Microseconds(), c.ID)
	}
	return fmt.Sprintf("%d:%d", int64(c.FireAt), c.ID)
}

// ParseJobCursor reads a text of JobCursor.String.
func ParseJobCursor(text string) (JobCursor, error) {
	at, id, ok := strings.Cut(text, ":")
	at, more, split := strings.Cut(at, "+")
	micros, err1 := strconv.ParseInt(at, 10, 64)
	number, err2 := strconv.ParseInt(id, 10, 64)
	c := JobCursor{FireAt: driver.DBTime(micros), ID: number}
	if split && err1 == nil {
		var excess int64
		excess, err1 = strconv.ParseInt(more, 10, 64)
		c.Beyond = time.Duration(excess) * time.Microsecond
		ok = ok && c.FireAt == math.MaxInt64 && excess > 0 && excess <= mostBeyond
	}
	if !ok || err1 != nil || err2 != nil {
		return JobCursor{}, errNoPlace
	}
	return c, nil
}

var errNoPlace = errors.New("is no place in a list: copy it from the end of the page before")

// mostBeyond is how many microseconds there are between the last driver.DBTime and PostgreSQL's last
// instant, 294276-12-31.
const mostBeyond = 945_979_145_224_192

// Job is one job of a list.
type Job struct {
	ID     int64
	State  JobState
	Topic  string
	Key    string // "": none
	FireAt driver.DBTime
	// Beyond is by how much it fires later than FireAt, if that is the last instant that a DBTime can be, in
	// the year 294247. PostgreSQL's last one is thirty years later.
	Beyond time.Duration
	// Attempts is how many times the broker has refused it, Code the last MQTT reason code; 0: none.
	Attempts, Code int
	// Reason is the last reason, of the broker or of reactor; "": none.
	Reason string
	// RetryAt is when it is tried again, FailedAt when it ended without being published; nil: not.
	RetryAt, FailedAt *driver.DBTime
	// Schedule is as in JobFilter, ScheduleName its name; "": it was deleted, or there is none.
	Schedule     int64
	ScheduleName string
	// OrderingKey is that of the row; "": none. WaitsFor is the job with the same key for which it waits; nil: it
	// waits for none.
	OrderingKey string
	WaitsFor    *JobBefore
}

// Cursor is the place of the job in the list.
func (j Job) Cursor() JobCursor { return JobCursor{j.FireAt, j.ID, j.Beyond} }

// FireTime is fire_at, exactly.
func (j Job) FireTime() time.Time { return j.FireAt.Time().Add(j.Beyond) }

var listedColumns = `
       job.id, ` + stateSQL + ` AS state, job.topic, coalesce(job.key, '') AS key, job.fire_at,
       CASE WHEN failure.job_id IS NULL THEN coalesce(note.attempts, 0) ELSE failure.attempts END AS attempts,
       coalesce(failure.code, note.code, 0) AS code, coalesce(failure.reason, note.reason, '') AS reason,
       ` + micros("CASE WHEN NOT job.processed AND note.returned AND note.attempts > 0 THEN note.retry_at END") + ` AS retry_at,
       ` + micros("failure.failed_at") + ` AS failed_at, coalesce(job.schedule_id, 0) AS schedule_id, coalesce(job.ordering_key, '') AS ordering_key`

var readJobColumns = "id, state, topic, key, " + micros("fire_at") + ", " + beyond("fire_at") + " * 1000, attempts, code, reason, retry_at, failed_at, schedule_id, ordering_key"

func (j *Job) fields() []any {
	return []any{&j.ID, &j.State, &j.Topic, &j.Key, &j.FireAt, &j.Beyond, &j.Attempts, &j.Code, &j.Reason, &j.RetryAt, &j.FailedAt, &j.Schedule, &j.OrderingKey}
}

// List returns a page of jobs, and where the next one begins; nil: there is none.
//
// What it reads depends on the states, and on the other filters only where there is a key:
//
//   - waiting: of each shard, its part of the index jobs_pending from the page on. A filter that few
//     jobs pass makes it read more, all that wait at most.
//   - the other states except fired: the journal, reactor.retries and reactor.failed_jobs, all of
//     them, for each page.
//   - fired, or all states: the whole table, for each page.
//   - a key: its jobs, by index.
func (a *JobsAdmin) List(ctx context.Context, filter JobFilter, page JobPage) (list []Job, next *JobCursor, err error) {
	setDefault(&page.Limit, 50)
	if page.Limit < 1 || page.Limit > mostListed {
		return nil, nil, &driver.ConfigError{Field: "Limit", Value: page.Limit, Problem: fmt.Sprintf("must be 1 to %d", mostListed)}
	}
	if err := a.find(ctx); err != nil {
		return nil, nil, err
	}
	var args parameters
	// One more than wanted shows whether there is a next page.
	sql := a.listSQL(&args, filter, page, page.Limit+1)
	err = a.tx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (j Job, err error) {
			return j, row.Scan(j.fields()...)
		})
		if err != nil {
			return err
		}
		jobs := make([]*Job, len(list))
		for i := range list {
			jobs[i] = &list[i]
		}
		if err := nameSchedules(ctx, tx, jobs); err != nil {
			return err
		}
		return a.explainOrder(ctx, tx, jobs)
	})
	if err == nil && len(list) > page.Limit {
		list = list[:page.Limit]
		last := list[page.Limit-1].Cursor()
		next = &last
	}
	return list, next, err
}

// Select returns the ids of all jobs that pass the filter, in order of fire_at. It reads what List
// reads, once.
func (a *JobsAdmin) Select(ctx context.Context, filter JobFilter) (ids []int64, err error) {
	if err := a.find(ctx); err != nil {
		return nil, err
	}
	var args parameters
	sql := "SELECT id FROM (" + a.listSQL(&args, filter, JobPage{}, 0) + ") AS selected"
	err = a.tx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	return ids, err
}

// conditions are those of the row itself, without the state.
func (f JobFilter) conditions(args *parameters) (list []string) {
	if f.TopicPrefix != "" {
		list = append(list, "job.topic ^@ "+args.add(f.TopicPrefix, "text"))
	}
	if f.Key != "" {
		list = append(list, "job.key = "+args.add(f.Key, "text"))
	}
	if f.IDs != nil {
		list = append(list, "job.id = ANY ("+args.add(f.IDs, "bigint[]")+")")
	}
	if f.Schedule != 0 {
		list = append(list, "job.schedule_id = "+args.add(f.Schedule, "bigint"))
	}
	if f.From != nil {
		list = append(list, "job.fire_at >= "+args.at(*f.From))
	}
	if f.Until != nil {
		list = append(list, "job.fire_at < "+args.at(*f.Until))
	}
	return list
}

// reasons are the conditions of what is noted of the row.
func (f JobFilter) reasons(args *parameters) []string {
	if f.Because == nil {
		return nil
	}
	return []string{
		"coalesce(failure.code, note.code, 0) = " + args.add(f.Because.Code, "integer"),
		"coalesce(failure.reason, note.reason, '') = " + args.add(f.Because.Reason, "text"),
	}
}

// matches is whether a row fulfils the conditions. A column that is NULL fulfils none.
func (f JobFilter) matches(args *parameters) string {
	return "(" + and(f.conditions(args)) + ") IS TRUE"
}

// listSQL reads the jobs from the smallest places that have all of them: each branch is one place.
// With limit 0 it reads all.
func (a *JobsAdmin) listSQL(args *parameters, filter JobFilter, page JobPage, limit int) string {
	wanted := filter.States
	if len(wanted) == 0 {
		wanted = JobStates
	}
	conditions := filter.conditions(args)
	order, beyond := "ASC", ">"
	if page.Latest {
		order, beyond = "DESC", "<"
	}
	if page.After != nil {
		conditions = append(conditions, fmt.Sprintf("(job.fire_at, job.id) %s (%s, %s)", beyond, args.place(*page.After), args.add(page.After.ID, "bigint")))
	}
	if page.until != nil {
		conditions = append(conditions, fmt.Sprintf("(job.fire_at, job.id) <= (%s, %s)", args.place(*page.until), args.add(page.until.ID, "bigint")))
	}
	conditions = append(conditions, filter.reasons(args)...)
	end := func(table string) string {
		text := fmt.Sprintf(" ORDER BY %sfire_at %s, %[1]sid %[2]s", table, order)
		if limit > 0 {
			text += fmt.Sprintf(" LIMIT %d", limit)
		}
		return text
	}
	var branches []string
	add := func(states []JobState, source, where string) {
		states = slices.DeleteFunc(slices.Clone(states), func(s JobState) bool { return !slices.Contains(wanted, s) })
		if len(states) == 0 {
			return
		}
		words := make([]string, len(states))
		for i, state := range states {
			words[i] = string(state)
		}
		names := args.add(words, "text[]")
		sql := "SELECT" + listedColumns + " FROM " + source + " AS job" + notesJoin + " WHERE " + and(conditions) + " AND " + where + " AND (" + stateSQL + ") = ANY (" + names + ")" + end("job.")
		if where == ofShard {
			sql = "SELECT ofshard.* FROM generate_series(0, " + fmt.Sprint(driver.Shards-1) + ") AS s (shard) CROSS JOIN LATERAL (" + sql + ") AS ofshard"
		}
		branches = append(branches, "("+sql+")")
	}
	branch := func(states []JobState, where string) { add(states, a.jobs, where) }
	// The rows are looked up one by one, as the planner would not do by itself: OFFSET 0 keeps it from
	// joining the two in another way, and that would read the whole table.
	noted := func(states []JobState, ids, where string) {
		add(states, "(SELECT DISTINCT "+ids+") AS noted (id) CROSS JOIN LATERAL (SELECT j.xmin, j.* FROM "+a.jobs+" AS j WHERE j.id = noted.id OFFSET 0)", where)
	}
	processed := slices.DeleteFunc(slices.Clone(JobStates), func(s JobState) bool { return slices.Contains(unfiredStates, s) })
	few := filter.Key != "" || limit == 0
	switch {
	case slices.Contains(wanted, JobWaiting) && few:
		branch(unfiredStates, "NOT job.processed")
	case slices.Contains(wanted, JobWaiting):
		branch(unfiredStates, ofShard)
	default:
		noted([]JobState{JobRetrying}, "job_id FROM reactor.retries", "NOT job.processed")
		noted([]JobState{JobBlocked}, "job_id FROM reactor.failed_jobs", "NOT job.processed")
	}
	if slices.Contains(wanted, JobFired) || filter.Key != "" {
		branch(processed, "job.processed")
	} else {
		noted([]JobState{JobFiring}, "id FROM journal", "job.processed")
		noted([]JobState{JobReturning}, "job_id FROM reactor.retries WHERE NOT returned", "job.processed")
		noted([]JobState{JobFailed, JobExpired, JobMissed}, "job_id FROM reactor.failed_jobs", "job.processed")
	}
	return "WITH " + journalCTE + " SELECT " + readJobColumns + " FROM (" + strings.Join(branches, " UNION ALL ") + ") AS listed" + end("")
}

// ofShard is the condition of the unprocessed rows of one shard, of which jobs_pending has the order.
const ofShard = "NOT job.processed AND job.shard = s.shard::smallint"

// place returns the text for the fire_at of a cursor.
func (p *parameters) place(c JobCursor) string {
	if c.Beyond == 0 {
		return p.at(c.FireAt)
	}
	return "(" + p.at(c.FireAt) + " + " + p.add(interval(c.Beyond), "interval") + ")"
}
