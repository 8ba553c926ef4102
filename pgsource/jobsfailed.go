package pgsource

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// FailedGroup are jobs that were not published for the same reason.
type FailedGroup struct {
	// State is JobFailed, JobExpired, JobMissed or JobBlocked.
	State JobState
	// Code is the MQTT reason code, 0 if the broker did not refuse them; Reason is in words.
	Code   int
	Reason string
	Jobs   int64
	// First and Last are when the first and the last of them ended, or could not be claimed.
	First, Last driver.DBTime
	// Example is the id of the newest of them.
	Example int64
}

// Filter selects the jobs of the group.
func (g FailedGroup) Filter() JobFilter {
	return JobFilter{States: []JobState{g.State}, Because: &JobReason{g.Code, g.Reason}}
}

const (
	// MostGrouped is how many records FailedGroups reads, the newest ids first.
	MostGrouped = 10_000
	// mostGroups is how many groups it returns, the largest first.
	mostGroups = 200
)

// FailedGroups groups the jobs that were not published, and those that cannot be claimed, by state and reason, the largest group first. It
// looks at MostGrouped records, and more tells that there are others, or more groups. With a topic prefix it counts only the
// jobs with topics that begin with it.
func (a *JobsAdmin) FailedGroups(ctx context.Context, topicPrefix string) (list []FailedGroup, more bool, err error) {
	a.needs = toLook
	if err := a.find(ctx); err != nil {
		return nil, false, err
	}
	var args parameters
	topic := ""
	if topicPrefix != "" {
		topic = " AND job.topic ^@ " + args.add(topicPrefix, "text")
	}
	// Each record is looked up in the table: one that was tried again, or whose row is gone, is over.
	sql := fmt.Sprintf(`
		WITH newest AS MATERIALIZED (
		    SELECT job_id, failed_at, code, reason, claim, row_version, state FROM reactor.failed_jobs ORDER BY job_id DESC LIMIT %d
		), grouped AS (
		    SELECT CASE WHEN f.claim IS NULL THEN 'blocked' ELSE f.state END AS state, f.code, f.reason, count(*) AS counted, min(f.failed_at) AS first, max(f.failed_at) AS last, max(f.job_id) AS example
		      FROM newest AS f CROSS JOIN LATERAL (
		           SELECT FROM %s AS job
		            WHERE job.id = f.job_id AND CASE WHEN job.processed THEN job.claim = f.claim ELSE f.claim IS NULL AND f.row_version = %s END%s LIMIT 1) AS there
		     GROUP BY 1, 2, 3
		)
		SELECT state, code, reason, counted, %s, %s, example, (SELECT count(*) FROM newest) FROM grouped ORDER BY counted DESC, state, code, reason LIMIT %d`,
		MostGrouped+1, a.jobs, rowVersion, topic, micros("first"), micros("last"), mostGroups+1)
	err = a.tx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		var (
			g    FailedGroup
			read int64
		)
		_, err = pgx.ForEachRow(rows, []any{&g.State, &g.Code, &g.Reason, &g.Jobs, &g.First, &g.Last, &g.Example, &read}, func() error {
			list, more = append(list, g), read > MostGrouped
			return nil
		})
		return err
	})
	if len(list) > mostGroups {
		list, more = list[:mostGroups], true
	}
	return list, more, err
}

// JobReason is why a job was refused or could not be claimed, as in Job.
type JobReason struct {
	Code   int
	Reason string
}
