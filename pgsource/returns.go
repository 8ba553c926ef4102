package pgsource

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Jobs return to the table when a stop has not sent them, or when the broker refused them and they
// are to be tried again. A settlement notes them in reactor.retries, in the transaction that takes
// them out of the journal; this file makes their rows unprocessed.
//
//	journal ──settle──► retries, not returned ──give back──► retries, returned ──► claimed again
//	                        │        ▲                            (attempts are counted on)
//	                        │        └── the row is locked: later
//	                        ├── the row cannot be changed: failed_jobs
//	                        └── a newer job has its key: failed_jobs
//
// If we crash anywhere on that way, the note exists, and every instance searches for notes.

// toReturnSQL locks the rows of those of the given jobs that are noted.
const toReturnSQL = `
    SELECT job.tableoid AS part, job.ctid AS place, job.id, job.fire_at AS at, job.key
      FROM reactor.retries r JOIN {jobs} AS job ON job.id = r.job_id AND (job.claim = r.claim OR r.claim IS NULL) AND job.processed
     WHERE NOT r.returned AND r.job_id = ANY ($1::bigint[]){in $2 to $3}
     ORDER BY job.id
       FOR UPDATE OF job SKIP LOCKED
`

// lockReturnsSQL runs before handBackSQL, whose snapshot then sees the rows as this has locked
// them. If a row does not change after that, a trigger silently suppresses the change. Where no index
// keeps a key to one unfired job (a table with partitions), the key is locked as well, as
// reactor.schedule does it; if somebody else has that lock, the job is left for later.
const lockReturnsSQL = "WITH waiting AS MATERIALIZED (" + toReturnSQL + ") SELECT id, key IS NOT NULL FROM waiting{with its key}"

// lockedKeySQL takes the place of {with its key} in a table with partitions.
const lockedKeySQL = " WHERE CASE WHEN key IS NULL THEN true ELSE pg_try_advisory_xact_lock(hashtextextended('reactor key ' || key, 0::bigint)) END"

// replacedSQL ends jobs of which a newer one has the key by now, among those that lockReturnsSQL has
// locked. A producer has given the key another job while this one was claimed, and an unfired job is
// the only one with its key. Of two that return with the same key the one with the higher id is the
// newer one. It runs if a row has a key, before handBackSQL and in its transaction: if we crash
// before the commit, the notes are still there, and after it the jobs have ended.
const replacedSQL = `WITH replaced AS (
    SELECT job.id FROM reactor.retries r JOIN {jobs} AS job ON job.id = r.job_id AND (job.claim = r.claim OR r.claim IS NULL) AND job.processed
     WHERE NOT r.returned AND r.job_id = ANY ($1::bigint[]){in $2 to $3}
       AND (EXISTS (SELECT FROM {jobs} AS newer WHERE newer.key = job.key AND NOT newer.processed)
         OR EXISTS (SELECT FROM {jobs} AS newer WHERE newer.key = job.key AND newer.processed AND newer.id > job.id AND newer.id = ANY ($1::bigint[])))
), ended AS (
    DELETE FROM reactor.retries WHERE NOT returned AND job_id IN (SELECT id FROM replaced) RETURNING job_id, attempts, code, reason, claim
)
INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim)
SELECT job_id, attempts, code, CASE WHEN reason = '' THEN '' ELSE reason || '; ' END || 'replaced by a newer job with its key', claim FROM ended
    ON CONFLICT (job_id) DO UPDATE
   SET failed_at = excluded.failed_at, attempts = excluded.attempts, code = excluded.code, reason = excluded.reason, claim = excluded.claim, state = excluded.state, ordering = excluded.ordering
RETURNING job_id`

// handBackSQL makes rows unprocessed. A row that somebody has locked is left for later. A row that
// is not the one that was claimed is left alone for good; a note without a claim comes from a batch
// from before version 3, and identifies the row by its id. The update's trigger announces the jobs
// to all instances. If a trigger of the application undoes the update, the cast fails (see
// claimedID).
const handBackSQL = "WITH waiting AS MATERIALIZED (" + toReturnSQL + `), back AS (
    UPDATE {jobs} AS job SET processed = false, processed_at = NULL
      FROM waiting WHERE job.ctid = waiting.place AND job.tableoid = waiting.part AND fire_at = at{in $2 to $3}
    RETURNING CASE WHEN NOT processed THEN job.id ELSE ('a trigger takes the return back, of job ' || job.id)::bigint END AS id
), counted AS (
    UPDATE reactor.retries SET returned = true WHERE attempts > 0 AND job_id IN (SELECT id FROM back)
), forgotten AS (
    DELETE FROM reactor.retries WHERE attempts = 0 AND job_id IN (SELECT id FROM back)
)
SELECT id FROM back`

// mostReturns bounds the jobs of one statement.
const mostReturns = 1000

// giveBack makes noted jobs unprocessed. It leaves to lookAfterReturns what it cannot do now,
// because the settlement of other jobs waits for this.
func (s *Source) giveBack(ctx context.Context, ids []int64, due span) {
	for len(ids) > 0 {
		some := ids[:min(len(ids), mostReturns)]
		ended, err := s.handBack(ctx, s.hot, some, due, settlementLockTimeout)
		if len(ended.back)+len(ended.replaced) < len(some) {
			s.returnsWait.Store(true)
		}
		if err != nil {
			s.log.Debug("jobs do not go back to the table yet", "jobs", len(ids), "err", err)
			return
		}
		ids = ids[len(some):]
	}
}

// settlementLockTimeout is how long giveBack waits for a lock of the whole table.
const settlementLockTimeout = "100ms"

// span is between which times jobs are due, both included.
type span struct{ from, to driver.DBTime }

// anyDueTime is the span of all jobs.
var anyDueTime = span{driver.DistantPast, endOfTime}

// with returns the span that contains the jobs of a batch as well, given when its last is due.
func (s span) with(dueBy nullTime) span {
	if !dueBy.valid {
		return anyDueTime
	}
	return span{min(s.from, dueBy.Add(-mostSpan)), max(s.to, dueBy.DBTime)}
}

// handedBack tells what has become of noted jobs, by their ids. The others are left for later.
type handedBack struct {
	back     []int64 // unprocessed again
	replaced []int64 // ended, because newer jobs have their keys
	kept     []int64 // not changed, although nobody has locked them
}

// handBack makes rows unprocessed. Rows that are due at other times are left for later. Waiting for
// a lock delays others, so it has a limit of its own.
func (s *Source) handBack(ctx context.Context, db *database, ids []int64, due span, lockTimeout string) (ended handedBack, err error) {
	jobs := s.jobs()
	err = db.tx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+lockTimeout+"'"); err != nil {
			return err
		}
		ended = handedBack{}
		var (
			locked []int64
			id     int64
			keyed  bool
			keys   bool // of any of them
		)
		rows, err := tx.Query(ctx, jobs.lockReturns, jobs.between([]any{ids}, due.from, due.to)...)
		if err != nil {
			return err
		}
		if _, err := pgx.ForEachRow(rows, []any{&id, &keyed}, func() error {
			locked, keys = append(locked, id), keys || keyed
			return nil
		}); err != nil {
			return err
		}
		args := jobs.between([]any{locked}, due.from, due.to)
		collect := func(sql string, into *[]int64) error {
			rows, err := tx.Query(ctx, sql, args...)
			if err == nil {
				*into, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			}
			return err
		}
		if keys {
			if err := collect(jobs.replaced, &ended.replaced); err != nil {
				return err
			}
		}
		if err := collect(jobs.handBack, &ended.back); err != nil {
			return err
		}
		ended.kept = slices.DeleteFunc(locked, func(id int64) bool {
			return slices.Contains(ended.back, id) || slices.Contains(ended.replaced, id)
		})
		return nil
	})
	if err != nil {
		return handedBack{}, s.failed("give jobs back", err)
	}
	for _, id := range ended.replaced {
		s.unreturnable.Fail(s.log, slog.LevelWarn, "a job that was not published is given up, because a newer one has its key", "job", id)
	}
	return ended, nil
}

// returnsInterval is the time between two searches for notes. While this instance knows of a note,
// it searches with every beat.
const returnsInterval = 5 * time.Second

// lookAfterReturns returns all jobs that are noted, one page at a time: the rows of the first
// thousand may be locked for long.
func (s *Source) lookAfterReturns(ctx context.Context) error {
	s.returnsWait.Store(false)
	after := int64(math.MinInt64)
	for {
		var ids []int64
		if err := s.work.rows(ctx, "SELECT job_id FROM reactor.retries WHERE NOT returned AND job_id >= $1 ORDER BY job_id LIMIT $2", []any{after, mostReturns}, func(rows pgx.Rows) (err error) {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		}); err != nil || len(ids) == 0 {
			return s.failed("look for jobs that wait for their return", err)
		}
		s.returnsWait.Store(true)
		if err := s.returnSome(ctx, ids, choreLockTimeout); err != nil {
			return err
		}
		last := ids[len(ids)-1]
		if len(ids) < mostReturns || last == math.MaxInt64 {
			return nil
		}
		after = last + 1
	}
}

// choreLockTimeout is how long lookAfterReturns waits for a lock of the whole table.
const choreLockTimeout = "1s"

// secondLockTimeout is how long returnSome waits once it has waited for something that a trigger
// waits for.
const secondLockTimeout = "20ms"

// returnSome halves the set until it finds the row that cannot be changed. A job whose trigger
// lacks something, or waits for something, may succeed another time and stays noted. So does a job of
// which somebody is inserting a newer one with its key.
func (s *Source) returnSome(ctx context.Context, ids []int64, timeout string) error {
	ended, err := s.handBack(ctx, s.background, ids, anyDueTime, timeout)
	for _, id := range ended.kept {
		if err := s.failUnreturnable(ctx, id, errSuppressed); err != nil {
			return err
		}
	}
	if err == nil || !aboutJob(err) && !s.aboutKey(err) {
		return err
	}
	if waited(err) {
		timeout = secondLockTimeout
	}
	if len(ids) > 1 {
		if err := s.returnSome(ctx, ids[:len(ids)/2], timeout); err != nil {
			return err
		}
		return s.returnSome(ctx, ids[len(ids)/2:], timeout)
	}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && (!refusesRow(pgErr) || s.aboutKey(err)) {
		s.log.Debug("a job does not go back to the table yet", "job", ids[0], "err", err)
		return nil
	}
	return s.failUnreturnable(ctx, ids[0], err)
}

// aboutKey reports whether a row could not be made unprocessed because another one with its key was
// committed since replacedSQL has looked (then the next search ends the job), or is not committed yet.
// The server names the index where it waits for that; the rest of its sentence is translated.
func (s *Source) aboutKey(err error) bool {
	index := s.names.In("jobs_key")
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == pgerrcode.UniqueViolation && pgErr.ConstraintName == index ||
		waited(err) && strings.Contains(pgErr.Where, index))
}

// failUnreturnable records a job as failed whose row cannot be made unprocessed.
func (s *Source) failUnreturnable(ctx context.Context, id int64, why error) error {
	s.unreturnable.Fail(s.log, slog.LevelWarn, "a job that was not published cannot be tried again; it is given up", "job", id, "err", why)
	return s.failed("give a job up", s.background.exec(ctx, `
		WITH ended AS (DELETE FROM reactor.retries WHERE job_id = $1 AND NOT returned RETURNING job_id, attempts, code, reason, claim, ordering)
		INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim, ordering)
		SELECT job_id, attempts, code, reason || '; it cannot be tried again, the row refuses to be changed: ' || $2::text, claim, ordering FROM ended
		ON CONFLICT (job_id) DO UPDATE
		   SET failed_at = excluded.failed_at, attempts = excluded.attempts, code = excluded.code, reason = excluded.reason, claim = excluded.claim, state = excluded.state, ordering = excluded.ordering`,
		id, statementText(why)))
}

// purgeRetries deletes what is not needed any more: the counts of jobs that were published, and
// notes about rows that do not exist. It deletes a page at a time, for as long as the round may
// last.
func (s *Source) purgeRetries(ctx context.Context) error {
	if s.jobs().tree {
		var some bool
		if err := s.background.row(ctx, "SELECT EXISTS (SELECT FROM reactor.retries)", nil, &some); err != nil || !some {
			return s.failed("purge retries", err) // without a plan for all partitions
		}
	}
	for {
		var purged int
		if err := s.background.row(ctx, s.jobs().purge, []any{mostReturns}, &purged); err != nil || purged < mostReturns {
			return s.failed("purge retries", err)
		}
	}
}

// purgeRetriesSQL searches the rows one by one: with NOT EXISTS it would be a merge join with all
// jobs.
const purgeRetriesSQL = `
WITH purged AS (
DELETE FROM reactor.retries WHERE job_id IN (
    SELECT job_id FROM reactor.retries r
     WHERE retry_at < clock_timestamp() - interval '10 minutes'
       AND (SELECT true FROM {jobs} AS job WHERE job.id = r.job_id AND (job.claim = r.claim OR r.claim IS NULL) AND job.processed <> r.returned LIMIT 1) IS NULL
     LIMIT $1) RETURNING job_id)
SELECT count(*) FROM purged`

// Quarantine implements driver.Journal. The row stays unprocessed, because it cannot be changed.
// When somebody has removed the cause, its next claim succeeds and deletes its record from
// failed_jobs.
//
// The record names the version of the row, because there is no claim: another row that gets the id
// must not inherit the reason. If the row is changed, the record is about it again after the next
// attempt. If several rows have the id, it is about one of them.
func (s *Source) Quarantine(ctx context.Context, jobs []driver.BadJob) error {
	ids, reasons := make([]int64, len(jobs)), make([]string, len(jobs))
	for i, job := range jobs {
		ids[i], reasons[i] = job.ID, job.Why.Reason
	}
	return s.failed("quarantine jobs", s.hot.exec(ctx, s.jobs().quarantine, ids, reasons))
}

const quarantineSQL = `
INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, row_version)
SELECT job_id, 0, 0, reason, (SELECT ` + rowVersion + ` FROM {jobs} AS job WHERE job.id = job_id AND ` + pending + ` LIMIT 1)
  FROM unnest($1::bigint[], $2::text[]) AS bad (job_id, reason)
ON CONFLICT (job_id) DO UPDATE
   SET failed_at = excluded.failed_at, reason = excluded.reason, attempts = 0, code = 0, claim = NULL, state = 'failed', ordering = NULL, row_version = excluded.row_version
 WHERE failed_jobs.reason <> excluded.reason OR failed_jobs.claim IS NOT NULL OR failed_jobs.row_version IS DISTINCT FROM excluded.row_version`
