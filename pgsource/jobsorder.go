package pgsource

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// JobBefore is the job for which another one with its ordering_key waits.
type JobBefore struct {
	ID    int64
	State JobState
	// RetryAt is when it is tried again; nil: it is not about to be.
	RetryAt *driver.DBTime
}

// Failed reports whether it has ended without being published, or cannot be claimed: somebody has to look after it.
func (b JobBefore) Failed() bool {
	return b.State == JobBlocked || b.State == JobFailed || b.State == JobExpired || b.State == JobMissed
}

// orderSQL tells for which job each of some jobs waits, by what the tables say, and not by what an instance does: to
// claim a job, it asks the functions of sql/ordering.sql, which answer only when to look again.
//
// The cause is the job of the key that is on its way, or else the first of those that hold up the others: it is unfired, or was
// given up where the deployment says block. One that cannot be claimed is passed over where it says skip. A job
// that is not due yet waits for none, except for one that has failed: the others may have ended by then.
var orderSQL = `, subject AS (
    SELECT id, fire_at, fire_at <= clock_timestamp() AS due, ` + orderingSQL + ` AS ordering FROM {jobs} WHERE id = ANY ($1::bigint[]) AND NOT processed AND ordering_key IS NOT NULL
), policy AS (
    SELECT ordered_failure = 'block' AS blocks FROM reactor.deployment
), flying AS MATERIALIZED (
    SELECT one.id, entry.token, one.ordering FROM reactor.lanes l
     CROSS JOIN LATERAL (SELECT f.token, f.job_ids, f.ordered_ids, f.ordered_keys FROM reactor.in_flight f WHERE ` + ofLane("l.lane") + ` AND f.ordered_ids IS NOT NULL) AS entry
     CROSS JOIN LATERAL unnest(entry.ordered_ids, entry.ordered_keys) AS one (id, ordering) WHERE one.id = ANY (entry.job_ids)
    UNION ALL
    SELECT job_id, claim, ordering FROM reactor.retries WHERE NOT returned AND ordering IS NOT NULL
), front AS (
    SELECT subject.id AS subject, due, 0 AS rank, job.xmin, job.* FROM subject JOIN flying USING (ordering)
      JOIN {jobs} AS job ON job.id = flying.id AND job.claim = flying.token AND job.processed WHERE due
    UNION ALL
    SELECT subject.id, due, 1, job.* FROM subject CROSS JOIN policy CROSS JOIN LATERAL (
           SELECT job.xmin, job.* FROM {jobs} AS job
            WHERE hashtextextended(job.ordering_key, 0::bigint) = subject.ordering AND job.ordering_key IS NOT NULL AND coalesce(NOT job.processed, false)
              AND (job.fire_at, job.id) < (subject.fire_at, subject.id) AND (blocks OR NOT ` + quarantined + `)
            ORDER BY job.fire_at, job.id LIMIT 1) AS job
    UNION ALL
    SELECT subject.id, due, 1, job.xmin, job.* FROM subject CROSS JOIN policy JOIN reactor.failed_jobs f USING (ordering)
      JOIN {jobs} AS job ON job.id = f.job_id AND job.claim = f.claim AND job.processed
     WHERE blocks AND f.state = 'failed' AND (job.fire_at, job.id) < (subject.fire_at, subject.id)
), told AS (
    SELECT job.subject, job.due, job.rank, job.fire_at, job.id, ` + stateSQL + ` AS state,
           ` + micros("CASE WHEN note.attempts > 0 THEN note.retry_at END") + ` AS retry_at
      FROM front AS job` + notesJoin + `
)
SELECT DISTINCT ON (subject) subject, id, state, retry_at FROM told CROSS JOIN policy
 WHERE due AND state = ANY ('{waiting,retrying,firing,returning}'::text[]) OR blocks AND state = ANY ('{blocked,failed}'::text[])
 ORDER BY subject, rank, fire_at, id`

// quarantined is whether it is recorded that a row, as it is now, could not be claimed.
const quarantined = "EXISTS (SELECT FROM reactor.failed_jobs f WHERE f.job_id = job.id AND f.claim IS NULL AND f.row_version = " + rowVersion + ")"

// explainOrder sets Job.WaitsFor of the jobs of a list.
func (a *JobsAdmin) explainOrder(ctx context.Context, tx pgx.Tx, list []*Job) error {
	var ids []int64
	for _, j := range list {
		if j.OrderingKey != "" && !j.State.Final() && j.State != JobFiring && j.State != JobReturning {
			ids = append(ids, j.ID)
		}
	}
	if ids == nil {
		return nil
	}
	rows, err := tx.Query(ctx, "WITH "+journalCTE+strings.ReplaceAll(orderSQL, "{jobs}", a.jobs), ids)
	if err != nil {
		return err
	}
	waits := map[int64]JobBefore{}
	var (
		id     int64
		before JobBefore
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &before.ID, &before.State, &before.RetryAt}, func() error {
		waits[id] = before
		before.RetryAt = nil
		return nil
	}); err != nil {
		return err
	}
	for _, j := range list {
		if before, ok := waits[j.ID]; ok {
			j.WaitsFor = &before
		}
	}
	return nil
}
