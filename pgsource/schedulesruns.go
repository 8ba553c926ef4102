package pgsource

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// ScheduleRun is a job of an occurrence that is over, or under way.
type ScheduleRun struct {
	// OccurrenceAt is the time of the occurrence, without the jitter; FireAt when its job was due.
	OccurrenceAt, FireAt driver.DBTime
	ID                   int64
	State                JobState
	// Attempts and Reason are as in Job.
	Attempts int
	Reason   string
}

// mostRuns is how many runs of a schedule LastRuns returns at most.
const mostRuns = 1000

// LastRuns returns the last n runs of each of some schedules by their names, the newest first. It reads so many jobs of
// each by index. Jobs whose rows were purged are not among them, nor those that somebody ran by hand.
func (a *JobsAdmin) LastRuns(ctx context.Context, names []string, n int) (runs map[string][]ScheduleRun, err error) {
	if n < 1 || n > mostRuns {
		return nil, &driver.ConfigError{Field: "n", Value: n, Problem: fmt.Sprintf("must be 1 to %d", mostRuns)}
	}
	a.needs = toLook
	if err := a.find(ctx); err != nil {
		return nil, err
	}
	// Of an index each, that has the occurrences of a schedule in order, and that of the unfired ones, which are few.
	some := func(where string) string {
		return "(SELECT j.xmin, j.* FROM " + a.jobs + " AS j WHERE j.schedule_id = s.id AND j.occurrence_at IS NOT NULL AND " + where + " ORDER BY j.occurrence_at DESC LIMIT $2::bigint)"
	}
	sql := "WITH " + journalCTE + `, last AS (
		    SELECT s.name, job.* FROM reactor.schedules AS s CROSS JOIN LATERAL (
		           SELECT * FROM (` + some("j.processed") + " UNION ALL " + some("NOT j.processed AND j.fire_at <= (SELECT clock_timestamp())") + `) AS both_states
		            ORDER BY occurrence_at DESC, id DESC LIMIT $2::bigint) AS job
		     WHERE s.name = ANY ($1::text[])
		)
		SELECT job.name, ` + micros("job.occurrence_at") + ", " + micros("job.fire_at") + ", job.id, " + stateSQL + `,
		       CASE WHEN failure.job_id IS NULL THEN coalesce(note.attempts, 0) ELSE failure.attempts END, coalesce(failure.reason, note.reason, '')
		  FROM last AS job` + notesJoin + " ORDER BY job.name, job.occurrence_at DESC, job.id DESC"
	runs = map[string][]ScheduleRun{}
	err = a.tx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, names, n)
		if err != nil {
			return err
		}
		var (
			name string
			run  ScheduleRun
		)
		_, err = pgx.ForEachRow(rows, []any{&name, &run.OccurrenceAt, &run.FireAt, &run.ID, &run.State, &run.Attempts, &run.Reason}, func() error {
			runs[name] = append(runs[name], run)
			return nil
		})
		return err
	})
	return runs, err
}
