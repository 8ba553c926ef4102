package pgsource

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor"
)

// settleSQL removes finished batches from the journal and moves the others'
// settled mark, in one statement; it returns the latter. Batches of lanes that have
// another owner by now, and of earlier rounds, are left alone.
//
// QoS 1: if we die before this commits, the broker has acknowledged jobs that the
// journal still lists, and the recovery publishes them again. If we die after it,
// nothing is open.
//
// QoS 2: the mark says what the broker has received. If we die before this commits,
// those are sent again in the same slots, and the broker, which was not told to release
// them, knows them. If we die after it, they are released. The row goes when the broker
// has confirmed all releases; until then they are repeated, which is harmless.
//
// There is no lock on the lane against a take-over that commits meanwhile: what is said
// here stays true, we release only over a connection that the new owner has not closed
// yet, and it reads the journal after it has closed it.
const settleSQL = `
WITH done AS (
    DELETE FROM reactor.in_flight f
     USING unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS d (batch, round, owner), reactor.lanes l
     WHERE f.batch = d.batch AND f.round = d.round AND l.lane = f.lane AND l.owner = d.owner
)
UPDATE reactor.in_flight f SET settled = p.settled
  FROM unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::integer[]) AS p (batch, round, owner, settled), reactor.lanes l
 WHERE f.batch = p.batch AND f.round = p.round AND l.lane = f.lane AND l.owner = p.owner AND f.settled <= p.settled
RETURNING f.batch`

// Settle implements reactor.Journal.
func (s *Source) Settle(ctx context.Context, settlements []reactor.Settlement) ([]bool, error) {
	var (
		plain   plainSettlements
		special []reactor.Settlement
		known   map[int64]bool // marked, or found
	)
	for _, st := range settlements {
		if len(st.Failures) == 0 && !st.HandsBack() {
			plain.add(st)
		} else {
			special = append(special, st)
		}
	}
	var err error
	if len(special) == 0 {
		known, err = plain.settle(ctx, s.work)
	} else {
		err = pgx.BeginFunc(ctx, s.work, func(tx pgx.Tx) error {
			if known, err = plain.settle(ctx, tx); err != nil {
				return err
			}
			for _, st := range special {
				if known[st.BatchID], err = s.settleSpecial(ctx, tx, st); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, s.failed("settle", err)
	}
	held := make([]bool, len(settlements))
	for i, st := range settlements {
		held[i] = st.Done || known[st.BatchID]
	}
	return held, nil
}

// plainSettlements are those in which everything was published: columns of
// settleSQL's parameters.
type plainSettlements struct {
	done, doneRound, doneOwner []int64
	part, partRound, partOwner []int64
	settled                    []int32
}

func (p *plainSettlements) add(st reactor.Settlement) {
	if st.Done {
		p.done, p.doneRound, p.doneOwner = append(p.done, st.BatchID), append(p.doneRound, st.Round), append(p.doneOwner, st.Lease.Owner)
		return
	}
	p.part, p.partRound, p.partOwner = append(p.part, st.BatchID), append(p.partRound, st.Round), append(p.partOwner, st.Lease.Owner)
	p.settled = append(p.settled, int32(st.Settled))
}

// settle returns the batches that were marked.
func (p *plainSettlements) settle(ctx context.Context, db querier) (map[int64]bool, error) {
	rows, err := db.Query(ctx, settleSQL, p.done, p.doneRound, p.doneOwner, p.part, p.partRound, p.partOwner, p.settled)
	if err != nil {
		return nil, err
	}
	marked := make(map[int64]bool, len(p.part))
	var batch int64
	_, err = pgx.ForEachRow(rows, []any{&batch}, func() error {
		marked[batch] = true
		return nil
	})
	return marked, err
}

// settleSpecial settles a batch of which jobs failed, or go back to the table, and
// reports whether it is in the journal and ours. The journal row's own progress tells
// whether an earlier try with an unknown outcome has done it already, so failures are
// counted once.
//
// Unlike settleSQL it locks the lane: a job that goes back to the table must not be
// recovered as well, so a take-over has to come before this, and prevent it, or after.
func (s *Source) settleSpecial(ctx context.Context, tx pgx.Tx, st reactor.Settlement) (bool, error) {
	var (
		settled int
		ids     []int64
	)
	err := tx.QueryRow(ctx, `
		SELECT settled, job_ids FROM reactor.in_flight f JOIN reactor.lanes l USING (lane)
		 WHERE batch = $1 AND round = $2 AND l.owner = $3 FOR UPDATE OF f FOR SHARE OF l`,
		st.BatchID, st.Round, st.Lease.Owner).Scan(&settled, &ids)
	switch {
	case err == pgx.ErrNoRows:
		return false, nil // settled already, or another owner's
	case err != nil:
		return false, err
	case settled >= st.Settled && len(ids) == st.Kept && !st.Done:
		return true, nil // settled already
	}
	if returned := ids[st.Kept:]; len(returned) > 0 {
		if err := handBack(ctx, tx, returned); err != nil {
			return false, err
		}
	}
	if err := s.recordFailures(ctx, tx, st.Failures); err != nil {
		return false, err
	}
	if st.Done {
		_, err = tx.Exec(ctx, "DELETE FROM reactor.in_flight WHERE batch = $1", st.BatchID)
		return true, err
	}
	// A job that failed is no longer this batch's, and must not be recovered with it.
	const nobody = 0
	for i, id := range ids {
		if slices.ContainsFunc(st.Failures, func(f reactor.Failure) bool { return f.JobID == id }) {
			ids[i] = nobody
		}
	}
	_, err = tx.Exec(ctx, "UPDATE reactor.in_flight SET settled = $2, job_ids = $3 WHERE batch = $1",
		st.BatchID, st.Settled, ids[:st.Kept])
	return true, err
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
