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
	var g FailedGroup
	more, err = a.groupFailed(ctx, topicPrefix, failedState+" AS state, f.code, f.reason", "state, code, reason",
		[]any{&g.State, &g.Code, &g.Reason, &g.Jobs, &g.First, &g.Last, &g.Example}, func() { list = append(list, g) })
	return list[:min(len(list), mostGroups)], more || len(list) > mostGroups, err
}

// FailedTopic are jobs that were not published, and whose topics have the same beginning.
type FailedTopic struct {
	// Topic is that beginning, up to the next slash behind the prefix that was asked for, and with it. Whole: there is no slash,
	// and it is the topic of all of them.
	Topic string
	Whole bool
	Jobs  int64
	// First, Last and Example are as in FailedGroup.
	First, Last driver.DBTime
	Example     int64
}

// FailedTopics groups the same jobs as FailedGroups does by the next level of their topics.
func (a *JobsAdmin) FailedTopics(ctx context.Context, topicPrefix string) (list []FailedTopic, more bool, err error) {
	// The rest of the topic behind the prefix, $2, which is there even if it is empty.
	const rest = "substr(there.topic, char_length($2::text) + 1)"
	const slash = "strpos(" + rest + ", '/'::text)"
	var t FailedTopic
	more, err = a.groupFailed(ctx, topicPrefix, "CASE WHEN "+slash+" = 0 THEN there.topic ELSE $2::text || left("+rest+", "+slash+") END AS topic, "+slash+" = 0 AS whole, 0 AS one", "topic, whole",
		[]any{&t.Topic, &t.Whole, &t.Jobs, &t.First, &t.Last, &t.Example}, func() { list = append(list, t) })
	return list[:min(len(list), mostGroups)], more || len(list) > mostGroups, err
}

// failedState is the state of a record of a job.
const failedState = "CASE WHEN f.claim IS NULL THEN 'blocked' ELSE f.state END"

// groupFailed groups the newest records by three expressions over f, the record, and there, its job; names are those that are
// returned, before the number of jobs, their first and last time, and an example. add is called for each group.
func (a *JobsAdmin) groupFailed(ctx context.Context, topicPrefix, by, names string, fields []any, add func()) (more bool, err error) {
	a.needs = toLook
	if err := a.find(ctx); err != nil {
		return false, err
	}
	// Each record is looked up in the table: one that was tried again, or whose row is gone, is over.
	sql := fmt.Sprintf(`
		WITH newest AS MATERIALIZED (
		    SELECT job_id, failed_at, code, reason, claim, row_version, state FROM reactor.failed_jobs ORDER BY job_id DESC LIMIT $1::bigint
		), grouped AS (
		    SELECT %s, count(*) AS counted, min(f.failed_at) AS first, max(f.failed_at) AS last, max(f.job_id) AS example
		      FROM newest AS f CROSS JOIN LATERAL (
		           SELECT job.topic FROM %s AS job
		            WHERE job.id = f.job_id AND CASE WHEN job.processed THEN job.claim = f.claim ELSE f.claim IS NULL AND f.row_version = %s END AND job.topic ^@ $2::text LIMIT 1) AS there
		     GROUP BY 1, 2, 3
		)
		SELECT %s, counted, %s, %s, example, (SELECT count(*) FROM newest) FROM grouped ORDER BY counted DESC, %[4]s LIMIT %[7]d`,
		by, a.jobs, rowVersion, names, micros("first"), micros("last"), mostGroups+1)
	err = a.tx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, MostGrouped+1, topicPrefix)
		if err != nil {
			return err
		}
		var read int64
		_, err = pgx.ForEachRow(rows, append(fields, &read), func() error {
			add()
			more = read > MostGrouped
			return nil
		})
		return err
	})
	return more, err
}

// JobReason is why a job was refused or could not be claimed, as in Job.
type JobReason struct {
	Code   int
	Reason string
}
