package pgsource

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/reactor/driver"
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

// toReturnSQL locks the rows of some jobs that are noted.
const toReturnSQL = `
    SELECT job.tableoid AS part, job.ctid AS place, job.id
      FROM reactor.retries r JOIN {jobs} AS job ON job.id = r.job_id AND (job.claim = r.claim OR r.claim IS NULL) AND job.processed
     WHERE NOT r.returned AND r.job_id = ANY ($1::bigint[])
     ORDER BY job.id
       FOR UPDATE OF job SKIP LOCKED
`

// lockReturnsSQL comes before handBackSQL, whose snapshot sees the rows as this has locked them. Those that do not
// change then, some trigger silently keeps as they are.
const lockReturnsSQL = "WITH waiting AS MATERIALIZED (" + toReturnSQL + ") SELECT id FROM waiting"

// handBackSQL gives some jobs back. A row that somebody has locked is left for later, and
// one that is not what was claimed, for good; a note without a claim is about a batch from
// before version 3, and goes by the id. The update's trigger tells all instances. Where a
// trigger of the application undoes the update the cast fails (see claimedID).
const handBackSQL = "WITH waiting AS MATERIALIZED (" + toReturnSQL + `), back AS (
    UPDATE {jobs} AS job SET processed = false, processed_at = NULL
      FROM waiting WHERE job.ctid = waiting.place AND job.tableoid = waiting.part
    RETURNING CASE WHEN NOT processed THEN job.id ELSE ('a trigger takes the return back, of job ' || job.id)::bigint END AS id
), counted AS (
    UPDATE reactor.retries SET returned = true WHERE attempts > 0 AND job_id IN (SELECT id FROM back)
), forgotten AS (
    DELETE FROM reactor.retries WHERE attempts = 0 AND job_id IN (SELECT id FROM back)
)
SELECT id FROM back`

// mostReturns bounds one statement.
const mostReturns = 1000

// giveBack makes noted jobs unprocessed. What it cannot do now is left to lookAfterReturns:
// the settlement of others waits behind this.
func (s *Source) giveBack(ctx context.Context, ids []int64) {
	for len(ids) > 0 {
		some := ids[:min(len(ids), mostReturns)]
		back, _, err := s.handBack(ctx, s.hot, some, promptly)
		if len(back) < len(some) {
			s.returnsWait.Store(true)
		}
		if err != nil {
			s.log.Debug("jobs do not go back to the table yet", "jobs", len(ids), "err", err)
			return
		}
		ids = ids[len(some):]
	}
}

// promptly is how long giveBack waits where the whole table is locked.
const promptly = "100ms"

// handBack gives jobs back; kept are those whose rows stay as they are, though nobody has locked
// them. Waiting for a lock is in the way of others, so it has a limit of its own.
func (s *Source) handBack(ctx context.Context, db *database, ids []int64, lockTimeout string) (back, kept []int64, err error) {
	err = db.tx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+lockTimeout+"'"); err != nil {
			return err
		}
		for _, step := range []struct {
			sql string
			ids *[]int64
		}{{s.jobs().lockReturns, &kept}, {s.jobs().handBack, &back}} {
			rows, err := tx.Query(ctx, step.sql, ids)
			if err == nil {
				*step.ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, s.failed("give jobs back", err)
	}
	return back, slices.DeleteFunc(kept, func(id int64) bool { return slices.Contains(back, id) }), nil
}

// returnsInterval is the time between two looks for notes that somebody has left; while we
// know of one, it is the time between two beats.
const returnsInterval = 5 * time.Second

// lookAfterReturns gives back what is noted and waits: all of it, a page at a time, for the
// first thousand may be locked for long.
func (s *Source) lookAfterReturns(ctx context.Context) error {
	s.returnsWait.Store(false)
	after := int64(math.MinInt64)
	for {
		var ids []int64
		if err := s.aside.rows(ctx, "SELECT job_id FROM reactor.retries WHERE NOT returned AND job_id >= $1 ORDER BY job_id LIMIT $2", []any{after, mostReturns}, func(rows pgx.Rows) (err error) {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		}); err != nil || len(ids) == 0 {
			return s.failed("look for jobs that wait for their return", err)
		}
		s.returnsWait.Store(true)
		if err := s.returnSome(ctx, ids, patiently); err != nil {
			return err
		}
		last := ids[len(ids)-1]
		if len(ids) < mostReturns || last == math.MaxInt64 {
			return nil
		}
		after = last + 1
	}
}

// patiently is how long lookAfterReturns waits where the whole table is locked.
const patiently = "1s"

// impatiently is how long returnSome waits once it has waited for what a trigger waits for.
const impatiently = "20ms"

// returnSome halves until it finds the row that cannot be changed. One whose trigger misses or
// awaits something may fare better another time, and stays noted.
func (s *Source) returnSome(ctx context.Context, ids []int64, patience string) error {
	_, kept, err := s.handBack(ctx, s.aside, ids, patience)
	for _, id := range kept {
		if err := s.endUnreturnable(ctx, id, errSwallowed); err != nil {
			return err
		}
	}
	if err == nil || !aboutJob(err) {
		return err
	}
	if waited(err) {
		patience = impatiently
	}
	if len(ids) > 1 {
		if err := s.returnSome(ctx, ids[:len(ids)/2], patience); err != nil {
			return err
		}
		return s.returnSome(ctx, ids[len(ids)/2:], patience)
	}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && !refusesRow(pgErr) {
		s.log.Debug("a job does not go back to the table yet", "job", ids[0], "err", err)
		return nil
	}
	return s.endUnreturnable(ctx, ids[0], err)
}

// endUnreturnable ends a job whose row refuses to become unprocessed.
func (s *Source) endUnreturnable(ctx context.Context, id int64, why error) error {
	s.unreturnable.Fail(s.log, slog.LevelWarn, "a job that was not published cannot be tried again; it is given up", "job", id, "err", why)
	return s.failed("give a job up", s.aside.exec(ctx, `
		WITH ended AS (DELETE FROM reactor.retries WHERE job_id = $1 AND NOT returned RETURNING job_id, attempts, code, reason, claim)
		INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim)
		SELECT job_id, attempts, code, reason || '; it cannot be tried again, the row refuses to be changed: ' || $2::text, claim FROM ended
		ON CONFLICT (job_id) DO UPDATE
		   SET failed_at = excluded.failed_at, attempts = excluded.attempts, code = excluded.code, reason = excluded.reason, claim = excluded.claim`,
		id, statementText(why)))
}

// purgeRetries removes what nobody needs any more: counts of jobs that came through, and
// notes about rows that are not there. Some at a time, as long as the round may last.
func (s *Source) purgeRetries(ctx context.Context) error {
	for {
		var purged int
		if err := s.aside.row(ctx, s.jobs().purge, []any{mostReturns}, &purged); err != nil || purged < mostReturns {
			return s.failed("purge retries", err)
		}
	}
}

// purgeRetriesSQL looks the rows up one by one: NOT EXISTS would be a merge with all jobs.
const purgeRetriesSQL = `
WITH purged AS (
DELETE FROM reactor.retries WHERE job_id IN (
    SELECT job_id FROM reactor.retries r
     WHERE retry_at < clock_timestamp() - interval '10 minutes'
       AND (SELECT true FROM {jobs} AS job WHERE job.id = r.job_id AND (job.claim = r.claim OR r.claim IS NULL) AND job.processed <> r.returned LIMIT 1) IS NULL
     LIMIT $1) RETURNING job_id)
SELECT count(*) FROM purged`

// Quarantine implements driver.Journal. The row stays unprocessed, for it is just that
// which cannot be changed; once somebody has changed what is in the way, its next claim
// succeeds and takes it out of the failed jobs again.
func (s *Source) Quarantine(ctx context.Context, jobs []driver.BadJob) error {
	ids, reasons := make([]int64, len(jobs)), make([]string, len(jobs))
	for i, job := range jobs {
		ids[i], reasons[i] = job.ID, job.Why.Reason
	}
	return s.failed("quarantine jobs", s.hot.exec(ctx, `
		INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason)
		SELECT job_id, 0, 0, reason FROM unnest($1::bigint[], $2::text[]) AS bad (job_id, reason)
		ON CONFLICT (job_id) DO UPDATE SET failed_at = excluded.failed_at, reason = excluded.reason, attempts = 0, code = 0, claim = NULL
		 WHERE failed_jobs.reason <> excluded.reason`,
		ids, reasons))
}
