package pgsource

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// The way of jobs back to the table: what a stop has not sent, and what the broker refused
// and is to be offered again. A settlement notes them in reactor.retries, in the
// transaction that takes them out of the journal; here they become unprocessed.
//
//	journal ──settle──► retries, not returned ──give back──► retries, returned ──► claimed again
//	                        │        ▲                            (attempts are counted on)
//	                        │        └── the row is locked: later
//	                        └── the row cannot be changed: failed_jobs
//
// If we die anywhere on that way, the note is there, and every instance looks for notes.

// handBackSQL gives back some jobs, or, without ids, as many as it finds. A row that
// somebody has locked is left for later, and one that is not what was claimed, for good.
// The update's trigger tells all instances.
const handBackSQL = `
WITH waiting AS MATERIALIZED (
    SELECT job.tableoid AS part, job.ctid AS place
      FROM reactor.retries r JOIN {jobs} AS job ON job.id = r.job_id AND job.claim = r.claim AND job.processed
     WHERE NOT r.returned AND ($1::bigint[] IS NULL OR r.job_id = ANY ($1))
     ORDER BY job.id LIMIT $2
       FOR UPDATE OF job SKIP LOCKED
), back AS (
    UPDATE {jobs} AS job SET processed = false, processed_at = NULL
      FROM waiting WHERE job.ctid = waiting.place AND job.tableoid = waiting.part
    RETURNING job.id
), counted AS (
    UPDATE reactor.retries SET returned = true WHERE attempts > 0 AND job_id IN (SELECT id FROM back)
), forgotten AS (
    DELETE FROM reactor.retries WHERE attempts = 0 AND job_id IN (SELECT id FROM back)
)
SELECT id FROM back`

// mostReturns bounds one statement.
const mostReturns = 1000

// giveBack makes noted jobs unprocessed. What it cannot do now is left to lookAfterReturns.
func (s *Source) giveBack(ctx context.Context, ids []int64) {
	for len(ids) > 0 {
		some := ids[:min(len(ids), mostReturns)]
		ids = ids[len(some):]
		back, err := s.handBack(ctx, s.hot, some)
		if len(back) < len(some) {
			s.returnsWait.Store(true)
		}
		if err != nil {
			s.log.Debug("jobs do not go back to the table yet", "jobs", len(some), "err", err)
		}
	}
}

func (s *Source) handBack(ctx context.Context, db *database, ids []int64) (back []int64, err error) {
	err = db.rows(ctx, s.jobs().handBack, []any{ids, mostReturns}, func(rows pgx.Rows) (err error) {
		back, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	return back, s.failed("give jobs back", err)
}

// returnsInterval is the time between two looks for notes that somebody has left; while we
// know of one, it is the time between two beats.
const returnsInterval = 5 * time.Second

// lookAfterReturns gives back what is noted and waits.
func (s *Source) lookAfterReturns(ctx context.Context) error {
	var ids []int64
	if err := s.aside.rows(ctx, "SELECT job_id FROM reactor.retries WHERE NOT returned ORDER BY job_id LIMIT $1", []any{mostReturns}, func(rows pgx.Rows) (err error) {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	}); err != nil || len(ids) == 0 {
		s.returnsWait.Store(false)
		return err
	}
	s.returnsWait.Store(true)
	return s.returnSome(ctx, ids)
}

// returnSome halves until it finds the row that cannot be changed.
func (s *Source) returnSome(ctx context.Context, ids []int64) error {
	_, err := s.handBack(ctx, s.aside, ids)
	switch {
	case err == nil || !aboutJob(err):
		return err
	case len(ids) > 1:
		if err := s.returnSome(ctx, ids[:len(ids)/2]); err != nil {
			return err
		}
		return s.returnSome(ctx, ids[len(ids)/2:])
	}
	s.log.Warn("a job that was not published cannot be tried again; it is given up", "job", ids[0], "err", err)
	return s.endUnreturnable(ctx, ids[0], err)
}

// endUnreturnable ends a job whose row refuses to become unprocessed.
func (s *Source) endUnreturnable(ctx context.Context, id int64, why error) error {
	return s.failed("give a job up", s.aside.exec(ctx, `
		WITH ended AS (DELETE FROM reactor.retries WHERE job_id = $1 AND NOT returned RETURNING job_id, attempts, code, reason, claim)
		INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim)
		SELECT job_id, attempts, code, reason || '; it cannot be tried again, the row refuses to be changed: ' || $2::text, claim FROM ended
		ON CONFLICT (job_id) DO UPDATE
		   SET failed_at = excluded.failed_at, attempts = excluded.attempts, code = excluded.code, reason = excluded.reason, claim = excluded.claim`,
		id, statementText(why)))
}

// purgeRetries removes what nobody needs any more: counts of jobs that came through, and
// notes about rows that are not there. Some at a time; there is no hurry.
func (s *Source) purgeRetries(ctx context.Context) error {
	return s.failed("purge retries", s.aside.exec(ctx, s.jobs().purge, mostReturns))
}

const purgeRetriesSQL = `
DELETE FROM reactor.retries WHERE job_id IN (
    SELECT job_id FROM reactor.retries r
     WHERE retry_at < clock_timestamp() - interval '10 minutes'
       AND NOT EXISTS (SELECT FROM {jobs} AS job WHERE job.id = r.job_id AND job.claim = r.claim AND job.processed <> r.returned)
     LIMIT $1)`

// Quarantine implements reactor.Journal. The row stays unprocessed, for it is just that
// which cannot be changed; once somebody has changed what is in the way, its next claim
// succeeds and takes it out of the failed jobs again.
func (s *Source) Quarantine(ctx context.Context, id int64, reason string) error {
	return s.failed("quarantine a job", s.hot.exec(ctx, `
		INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason) VALUES ($1, 0, 0, $2)
		ON CONFLICT (job_id) DO UPDATE SET failed_at = excluded.failed_at, reason = excluded.reason, attempts = 0, code = 0, claim = NULL
		 WHERE failed_jobs.reason <> excluded.reason`,
		id, reason))
}
