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

// lookedBack is how many jobs before one are looked at. Behind more of them that wait, the farthest of these is named.
const lookedBack = 200

// orderSQL tells for which job each of some jobs waits, by what the tables say, and not by what an instance does: to
// claim a job, it asks reactor.waits_until, which answers only when to look again.
//
// Going back from a job, those that have not ended are passed, up to the first that was claimed. The last of them that
// holds up the others is the cause: it is being published, is to be tried again, or was given up where the
// deployment says block. One that cannot be claimed is passed over where it says skip. A job that is not due yet waits
// for none, except for one that has failed: the others may have ended by then.
var orderSQL = `, subject AS (
    SELECT id, fire_at, ordering_key FROM {jobs} WHERE id = ANY ($1::bigint[]) AND NOT processed AND ordering_key IS NOT NULL
), before AS (
    SELECT subject.id AS subject, subject.fire_at <= clock_timestamp() AS due, job.*
      FROM subject CROSS JOIN LATERAL (
           SELECT j.xmin, j.* FROM {jobs} AS j WHERE j.ordering_key = subject.ordering_key AND (j.fire_at, j.id) < (subject.fire_at, subject.id)
            ORDER BY j.fire_at DESC, j.id DESC LIMIT $2::integer) AS job
), told AS (
    SELECT job.subject, job.due, job.id, job.processed, ` + stateSQL + ` AS state,
           ` + micros("CASE WHEN note.attempts > 0 THEN note.retry_at END") + ` AS retry_at,
           row_number() OVER (PARTITION BY job.subject ORDER BY job.fire_at DESC, job.id DESC) AS back
      FROM before AS job` + notesJoin + `
), chain AS (
    SELECT *, coalesce(min(back) FILTER (WHERE processed) OVER (PARTITION BY subject), back) AS last FROM told
)
SELECT DISTINCT ON (subject) subject, id, state, retry_at FROM chain CROSS JOIN reactor.deployment
 WHERE back <= last
   AND (due AND state = ANY ('{waiting,retrying,firing,returning}'::text[]) OR ordered_failure = 'block' AND state = ANY ('{blocked,failed,expired,missed}'::text[]))
 ORDER BY subject, back DESC`

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
	rows, err := tx.Query(ctx, "WITH "+journalCTE+strings.ReplaceAll(orderSQL, "{jobs}", a.jobs), ids, lookedBack)
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
