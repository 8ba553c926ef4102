package pgsource

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/job-publisher/reactor/reactor/driver"
)

// settleSQL deletes finished batches from the journal and updates the progress of the others, in
// one statement. It returns the tokens of the updated batches, and the ordering keys of the deleted
// ones, as hashes. It leaves alone batches of lanes
// that have another owner by now, batches of earlier rounds, and batches that got the same number
// after a failover.
//
// QoS 1: if we crash before this commits, the broker has acknowledged jobs that the journal still
// lists, and the recovery publishes them again. If we crash after it, nothing is open.
//
// QoS 2: the progress says what the broker has received. If we crash before this commits, those
// jobs are sent again in the same slots, and the broker recognizes them, because it was not told to
// release them. If we crash after it, they are released. The row is deleted when the broker has
// confirmed all releases; until then the releases are repeated, which is harmless.
//
// The batch numbers are given twice: with a join alone, the planner reads a journal of a dozen rows
// from the front of its index, including all deleted rows that an old snapshot keeps there. For the
// same reason the lane is joined by an expression (ofLane).
//
// The lane is not locked against a take-over that commits meanwhile. What is recorded here stays
// true; we send releases only over a connection that the new owner has not closed yet; and the new
// owner reads the journal after it has closed that connection.
const settleSQL = `
WITH done AS (
    DELETE FROM reactor.in_flight f
     USING unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::bigint[]) AS d (batch, token, round, owner), reactor.lanes l
     WHERE f.batch = ANY ($1) AND f.batch = d.batch AND f.token = d.token AND f.round = d.round AND l.lane = f.lane + 0 AND l.owner = d.owner
    RETURNING f.ordered_keys
), progress AS (
    UPDATE reactor.in_flight f SET settled = p.settled
      FROM unnest($5::bigint[], $6::uuid[], $7::bigint[], $8::bigint[], $9::integer[]) AS p (batch, token, round, owner, settled), reactor.lanes l
     WHERE f.batch = ANY ($5) AND f.batch = p.batch AND f.token = p.token AND f.round = p.round AND l.lane = f.lane + 0 AND l.owner = p.owner AND f.settled <= p.settled
    RETURNING f.token
)
SELECT token, NULL::bigint[] FROM progress UNION ALL SELECT NULL, ordered_keys FROM done WHERE ordered_keys IS NOT NULL`

// Settle implements driver.Journal.
//
// The transaction touches no row of jobs: an application may have locked the row, or somebody's
// trigger may refuse the change, and neither may delay the settlement of other jobs. Jobs that go
// back to the table are noted in reactor.retries, and returned afterwards (returns.go). If we crash
// in between, any instance finds the note and returns the job.
func (s *Source) Settle(ctx context.Context, settlements []driver.Settlement) ([]driver.Receipt, error) {
	var (
		plain   plainSettlements
		unusual []int // of settlements
	)
	for i, st := range settlements {
		if len(st.Failures) == 0 && !st.HandsBack() {
			plain.add(st)
		} else {
			unusual = append(unusual, i)
		}
	}
	var (
		outcomes = make([]driver.Receipt, len(settlements))
		updated  map[[16]byte]bool // tokens of the batches whose progress was recorded
		keys     []int64           // ordering keys of which jobs have ended, as hashes
		back     []int64
		due      span // of back
	)
	settlePlain := func(rows pgx.Rows) (err error) {
		updated, keys, err = plain.read(rows)
		return err
	}
	var era int64 // of the connection that was used
	settling := s.hot.accepting(func(conn *pgconn.PgConn) error {
		era = eraOf(conn)
		return nil
	})
	var err error
	if len(unusual) == 0 {
		err = settling.rows(ctx, settleSQL, plain.args(), settlePlain)
	} else {
		err = settling.tx(ctx, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, settleSQL, plain.args()...)
			if err == nil {
				err = settlePlain(rows)
			}
			back, due = back[:0], span{from: endOfTime, to: driver.DistantPast}
			for _, i := range unusual {
				if err != nil {
					break
				}
				var done special
				outcomes[i], done, err = s.settleSpecial(ctx, tx, settlements[i])
				if back = append(back, done.back...); len(done.back) > 0 {
					due = due.with(done.dueBy)
				}
				keys = append(keys, done.keys...)
			}
			return err
		})
	}
	if err == nil && era != s.timelines.now() {
		err = &notSentError{errFailedOver} // to a server that counts: the answer came from one that was replaced meanwhile
	}
	if err != nil {
		return nil, s.failed("settle", err)
	}
	s.giveBack(ctx, back, due)
	if len(keys) > 0 {
		outcomes[0].Keys = keys
	}
	for i, st := range settlements {
		if st.Done || updated[st.Token] {
			outcomes[i].Recorded = true
		}
	}
	return outcomes, nil
}

// plainSettlements are the settlements of which every job was published, as columns of settleSQL's
// parameters.
type plainSettlements struct{ done, part settlementColumns }

type settlementColumns struct {
	batch, round, owner []int64
	token               []pgtype.UUID
	settled             []int32
}

func (p *plainSettlements) add(st driver.Settlement) {
	c := &p.part
	if st.Done {
		c = &p.done
	}
	c.batch, c.token = append(c.batch, st.BatchID), append(c.token, uuid(st.Token))
	c.round, c.owner = append(c.round, st.Round), append(c.owner, st.Lease.Owner)
	c.settled = append(c.settled, int32(st.Concluded))
}

func (p *plainSettlements) args() []any {
	d, m := &p.done, &p.part
	return []any{d.batch, d.token, d.round, d.owner, m.batch, m.token, m.round, m.owner, m.settled}
}

// read returns the tokens of the batches whose progress was recorded, and the ordering keys of those
// that have ended.
func (p *plainSettlements) read(rows pgx.Rows) (updated map[[16]byte]bool, keys []int64, err error) {
	updated = make(map[[16]byte]bool, len(p.part.batch))
	var (
		token pgtype.UUID
		ended []int64
	)
	_, err = pgx.ForEachRow(rows, []any{&token, &ended}, func() error {
		if token.Valid {
			updated[token.Bytes] = true
		}
		keys = append(keys, ended...)
		return nil
	})
	return updated, keys, err
}

// special is what else there is to do after settleSpecial.
type special struct {
	back  []int64  // ids of jobs that go back to the table
	dueBy nullTime // when the last job of the batch is due
	keys  []int64  // ordering keys of which jobs have ended, as hashes
}

// settleSpecial settles a batch of which jobs failed or go back to the table. The progress in the
// journal row shows whether an earlier attempt with an unknown outcome has already done it, so that
// failures are counted once.
//
// Unlike settleSQL it locks the lane: a job that goes back to the table must not be recovered as
// well. So a take-over comes either before this, and prevents it, or after it.
func (s *Source) settleSpecial(ctx context.Context, tx pgx.Tx, st driver.Settlement) (outcome driver.Receipt, done special, err error) {
	var (
		settled int
		ids     []*int64
		signed  bool
		ordered orderings
	)
	err = tx.QueryRow(ctx, `
		SELECT settled, job_ids, reach IS NOT NULL, due_by, coalesce(ordered_ids, '{}'), coalesce(ordered_keys, '{}') FROM reactor.in_flight f JOIN reactor.lanes l ON l.lane = f.lane + 0
		 WHERE batch = $1 AND token = $2 AND round = $3 AND l.owner = $4 FOR UPDATE OF f FOR SHARE OF l`,
		st.BatchID, uuid(st.Token), st.Round, st.Lease.Owner).Scan(&settled, &ids, &signed, &done.dueBy, &ordered.ids, &ordered.keys)
	switch {
	case err == pgx.ErrNoRows: // it is settled already, or the lane has another owner
		outcome.GivenUp, err = givenUpBefore(ctx, tx, st)
		return outcome, done, err
	case err != nil:
		return outcome, done, err
	}
	outcome.Recorded = true
	if settled >= st.Concluded && len(ids) == st.Kept && !st.Done { // it is settled already
		outcome.GivenUp, err = givenUpBefore(ctx, tx, st)
		return outcome, done, err
	}
	// Rows of a batch from before version 3 are not signed: its jobs are identified by their ids,
	// and an id of 0 stood for a job that failed.
	claim := uuid(st.Token)
	claim.Valid = signed
	for _, id := range ids[st.Kept:] {
		if id != nil && (signed || *id != 0) {
			done.back = append(done.back, *id)
		}
	}
	if err := noteUnsent(ctx, tx, claim, done.back, ordered); err != nil {
		return outcome, done, err
	}
	again, ended, err := s.recordFailures(ctx, tx, claim, st.Failures, ordered)
	if err != nil {
		return outcome, done, err
	}
	done.back = append(done.back, again...)
	done.keys = ordered.of(ended)
	for _, f := range st.Failures {
		if slices.Contains(ended, f.JobID) {
			outcome.GivenUp = append(outcome.GivenUp, f)
		}
	}
	if st.Done {
		done.keys = ordered.keys
		_, err = tx.Exec(ctx, "DELETE FROM reactor.in_flight WHERE batch = $1", st.BatchID)
		return outcome, done, err
	}
	// A failed job no longer belongs to this batch, and must not be recovered with it.
	for i, id := range ids {
		if id != nil && slices.ContainsFunc(st.Failures, func(f driver.Failure) bool { return f.JobID == *id }) {
			ids[i] = nil
		}
	}
	_, err = tx.Exec(ctx, "UPDATE reactor.in_flight SET settled = $2, job_ids = $3 WHERE batch = $1",
		st.BatchID, st.Concluded, ids[:st.Kept])
	return outcome, done, err
}

// givenUpBefore finds the jobs that an earlier attempt of this settlement has given up, if its
// answer was lost: their failure has not been reported yet.
func givenUpBefore(ctx context.Context, tx pgx.Tx, st driver.Settlement) (givenUp []driver.Failure, err error) {
	if len(st.Failures) == 0 {
		return nil, nil
	}
	ids := make([]int64, len(st.Failures))
	for i, f := range st.Failures {
		ids[i] = f.JobID
	}
	rows, err := tx.Query(ctx, "SELECT job_id FROM reactor.failed_jobs WHERE job_id = ANY ($1) AND claim = $2", ids, uuid(st.Token))
	if err != nil {
		return nil, err
	}
	recorded, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	for _, f := range st.Failures {
		if slices.Contains(recorded, f.JobID) {
			givenUp = append(givenUp, f)
		}
	}
	return givenUp, err
}

// noteUnsent notes jobs that go back to the table as if they had not been claimed.
func noteUnsent(ctx context.Context, tx pgx.Tx, claim pgtype.UUID, ids []int64, ordered orderings) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO reactor.retries AS r (job_id, attempts, retry_at, code, reason, claim, returned, ordering)
		SELECT job_id, 0, clock_timestamp(), 0, 'not sent', $2, false, ordering FROM unnest($1::bigint[], $3::bigint[]) AS u (job_id, ordering)
		ON CONFLICT (job_id) DO UPDATE
		   SET attempts = CASE WHEN r.claim IS NOT DISTINCT FROM excluded.claim THEN r.attempts ELSE 0 END,
		       retry_at = CASE WHEN r.claim IS NOT DISTINCT FROM excluded.claim THEN r.retry_at ELSE excluded.retry_at END,
		       code = CASE WHEN r.claim IS NOT DISTINCT FROM excluded.claim THEN r.code ELSE 0 END,
		       reason = CASE WHEN r.claim IS NOT DISTINCT FROM excluded.claim THEN r.reason ELSE excluded.reason END,
		       claim = excluded.claim, returned = false, ordering = excluded.ordering`,
		ids, claim, ordered.each(ids))
	return err
}

// recordFailures counts the attempts of jobs that were not published. Jobs with attempts left go
// back to the table with a pause before the next attempt; the others end in failed_jobs with their
// reason. Attempts of another row that had the same id do not count.
func (s *Source) recordFailures(ctx context.Context, tx pgx.Tx, claim pgtype.UUID, failures []driver.Failure, ordered orderings) (again, ended []int64, err error) {
	if len(failures) == 0 {
		return nil, nil, nil
	}
	var (
		ids     = make([]int64, len(failures))
		codes   = make([]int16, len(failures))
		reasons = make([]string, len(failures))
		final   = make([]bool, len(failures))
		states  = make([]string, len(failures))
	)
	for i, f := range failures {
		ids[i], codes[i], reasons[i], final[i], states[i] = f.JobID, int16(f.Code), f.Reason, f.Final, f.State.String()
	}
	rows, err := tx.Query(ctx, `
		WITH failure AS (
		    SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::boolean[], $8::text[], $9::bigint[]) AS f (job_id, code, reason, final, state, ordering)
		), counted AS (
		    INSERT INTO reactor.retries AS r (job_id, attempts, retry_at, code, reason, claim, returned, ordering)
		    SELECT job_id, 1, clock_timestamp() + $6::interval * (0.75 + random() / 2), code, reason, $7, false, ordering FROM failure
		    ON CONFLICT (job_id) DO UPDATE
		       SET attempts = CASE WHEN r.claim IS NOT DISTINCT FROM excluded.claim THEN r.attempts ELSE 0 END + 1,
		           retry_at = clock_timestamp() + $6::interval * (0.75 + random() / 2)
		                    * 2 ^ CASE WHEN r.claim IS NOT DISTINCT FROM excluded.claim THEN least(r.attempts, 6) ELSE 0 END,
		           code = excluded.code, reason = excluded.reason, claim = excluded.claim, returned = false, ordering = excluded.ordering
		    RETURNING r.*
		), ended AS (
		    INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim, state, ordering)
		    SELECT c.job_id, c.attempts, c.code, c.reason, c.claim, state, c.ordering
		      FROM counted c JOIN failure USING (job_id) WHERE final OR c.attempts >= $5
		    ON CONFLICT (job_id) DO UPDATE
		       SET failed_at = excluded.failed_at, attempts = excluded.attempts, code = excluded.code, reason = excluded.reason, claim = excluded.claim, state = excluded.state, ordering = excluded.ordering
		    RETURNING job_id
		)
		SELECT counted.job_id, ended.job_id IS NOT NULL FROM counted LEFT JOIN ended USING (job_id)`,
		ids, codes, reasons, final, s.cfg.RetryAttempts, interval(s.cfg.RetryBackoff), claim, states, ordered.each(ids))
	if err != nil {
		return nil, nil, err
	}
	var (
		id   int64
		over bool
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &over}, func() error {
		if over {
			ended = append(ended, id)
		} else {
			again = append(again, id)
		}
		return nil
	}); err != nil {
		return nil, nil, err
	}
	_, err = tx.Exec(ctx, "DELETE FROM reactor.retries WHERE job_id = ANY ($1)", ended)
	return again, ended, err
}
