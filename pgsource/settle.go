package pgsource

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor"
)

// settleSQL removes finished batches from the journal and moves the others'
// settled mark, in one statement. Batches of lanes that have another owner by now
// are left alone.
//
// If we die before this commits, the broker has acknowledged jobs that the journal
// still lists: the recovery publishes them again (at-least-once). If we die after
// it, nothing is open.
const settleSQL = `
WITH done AS (
    DELETE FROM reactor.in_flight f
     USING unnest($1::bigint[], $2::bigint[]) AS d (batch, owner), reactor.lanes l
     WHERE f.batch = d.batch AND l.lane = f.lane AND l.owner = d.owner
)
UPDATE reactor.in_flight f SET settled = p.settled
  FROM unnest($3::bigint[], $4::bigint[], $5::integer[]) AS p (batch, owner, settled), reactor.lanes l
 WHERE f.batch = p.batch AND l.lane = f.lane AND l.owner = p.owner AND f.settled < p.settled`

// Settle implements reactor.Journal.
func (s *Source) Settle(ctx context.Context, settlements []reactor.Settlement) error {
	var plain plainSettlements
	var special []reactor.Settlement
	for _, st := range settlements {
		if len(st.Failures) == 0 && !st.HandsBack() {
			plain.add(st)
		} else {
			special = append(special, st)
		}
	}
	if len(special) == 0 {
		_, err := s.work.Exec(ctx, settleSQL, plain.args()...)
		return s.failed("settle", err)
	}
	return s.failed("settle", pgx.BeginFunc(ctx, s.work, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, settleSQL, plain.args()...); err != nil {
			return err
		}
		for _, st := range special {
			if err := s.settleSpecial(ctx, tx, st); err != nil {
				return err
			}
		}
		return nil
	}))
}

// plainSettlements are those in which everything was published: columns of
// settleSQL's parameters.
type plainSettlements struct {
	done, doneOwner []int64
	part, partOwner []int64
	settled         []int32
}

func (p *plainSettlements) add(st reactor.Settlement) {
	if st.Done() {
		p.done, p.doneOwner = append(p.done, st.BatchID), append(p.doneOwner, st.Lease.Owner)
		return
	}
	p.part, p.partOwner = append(p.part, st.BatchID), append(p.partOwner, st.Lease.Owner)
	p.settled = append(p.settled, int32(st.Settled))
}

func (p *plainSettlements) args() []any {
	return []any{p.done, p.doneOwner, p.part, p.partOwner, p.settled}
}

// settleSpecial settles a batch of which jobs failed, or go back to the table. The
// journal row's own progress tells whether an earlier try with an unknown outcome
// has done it already, so failures are counted once.
func (s *Source) settleSpecial(ctx context.Context, tx pgx.Tx, st reactor.Settlement) error {
	var (
		settled int
		ids     []int64
	)
	err := tx.QueryRow(ctx, `
		SELECT settled, job_ids FROM reactor.in_flight f JOIN reactor.lanes l USING (lane)
		 WHERE batch = $1 AND l.owner = $2 FOR UPDATE OF f`,
		st.BatchID, st.Lease.Owner).Scan(&settled, &ids)
	switch {
	case err == pgx.ErrNoRows:
		return nil // settled already, or another owner's
	case err != nil:
		return err
	case settled >= st.Settled && len(ids) == st.Kept && !st.Done():
		return nil // settled already
	}
	if returned := ids[st.Kept:]; len(returned) > 0 {
		if err := handBack(ctx, tx, returned); err != nil {
			return err
		}
	}
	if err := s.recordFailures(ctx, tx, st.Failures); err != nil {
		return err
	}
	if st.Done() {
		_, err = tx.Exec(ctx, "DELETE FROM reactor.in_flight WHERE batch = $1", st.BatchID)
	} else {
		_, err = tx.Exec(ctx, "UPDATE reactor.in_flight SET settled = $2, job_ids = job_ids[:$3] WHERE batch = $1",
			st.BatchID, st.Settled, st.Kept)
	}
	return err
}

// handBack makes claimed jobs unclaimed. The update's trigger tells all instances.
// Rows that somebody deleted meanwhile are cancelled, which is what was meant.
func handBack(ctx context.Context, tx pgx.Tx, ids []int64) error {
	_, err := tx.Exec(ctx, "UPDATE jobs SET processed = false, processed_at = NULL WHERE id = ANY ($1) AND processed", ids)
	return err
}

// recordFailures counts the attempts of jobs that were not published. Those with
// attempts left go back to the table with a pause before the next; the others end
// in failed_jobs with their reason.
func (s *Source) recordFailures(ctx context.Context, tx pgx.Tx, failures []reactor.Failure) error {
	if len(failures) == 0 {
		return nil
	}
	var (
		ids     = make([]int64, len(failures))
		codes   = make([]int16, len(failures))
		reasons = make([]string, len(failures))
		final   = make([]bool, len(failures))
	)
	for i, f := range failures {
		ids[i], codes[i], reasons[i], final[i] = f.JobID, int16(f.Code), f.Reason, f.Final
	}
	rows, err := tx.Query(ctx, `
		WITH failure AS (
		    SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::boolean[]) AS f (job_id, code, reason, final)
		), counted AS (
		    INSERT INTO reactor.retries AS r (job_id, attempts, retry_at, code, reason)
		    SELECT job_id, 1, clock_timestamp() + $6::interval * (0.75 + random() / 2), code, reason FROM failure
		    ON CONFLICT (job_id) DO UPDATE
		       SET attempts = r.attempts + 1, code = excluded.code, reason = excluded.reason,
		           retry_at = clock_timestamp() + $6::interval * 2 ^ least(r.attempts, 6) * (0.75 + random() / 2)
		    RETURNING r.*
		), ended AS (
		    INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason)
		    SELECT c.job_id, c.attempts, c.code, c.reason
		      FROM counted c JOIN failure USING (job_id) WHERE final OR c.attempts >= $5
		    ON CONFLICT (job_id) DO UPDATE
		       SET failed_at = excluded.failed_at, attempts = excluded.attempts, code = excluded.code, reason = excluded.reason
		    RETURNING job_id
		)
		SELECT counted.job_id, ended.job_id IS NOT NULL FROM counted LEFT JOIN ended USING (job_id)`,
		ids, codes, reasons, final, s.cfg.RetryAttempts, interval(s.cfg.RetryBackoff))
	if err != nil {
		return err
	}
	var (
		again, ended []int64
		id           int64
		over         bool
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &over}, func() error {
		if over {
			ended = append(ended, id)
		} else {
			again = append(again, id)
		}
		return nil
	}); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM reactor.retries WHERE job_id = ANY ($1)", ended); err != nil {
		return err
	}
	return handBack(ctx, tx, again)
}
