package pgsource

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/job-publisher/reactor/reactor"
)

// claimSQL takes jobs and journals them in one statement, one round trip and one
// commit.
//
//   - lease: locks the lane's row against a take-over, which updates it. Once a
//     take-over has committed no claim with the old epoch can, so the journal the
//     new owner reads is complete.
//   - due: everything is looked at again, under the row's lock, so that a stale wheel
//     entry cannot fire a job that was cancelled, moved or taken. Ids in order, locked
//     rows skipped: no deadlock, and no waiting for anybody.
//   - claimed: by the place of the locked row, which the lock keeps from moving; a second
//     search by id would be an eighth of the whole claim. A version that is younger than
//     this statement's snapshot is locked and not found here: it is looked at again.
//   - journalled: the jobs in launch order; job i has the slot i places after the first.
//
// If we die before the commit, nothing happened: the jobs are unprocessed and the
// next sweep, ours or another's, finds them. If we die after it, the journal names
// the batch, and whoever takes over the lane recovers it.
const claimSQL = `
WITH lease AS MATERIALIZED (
    SELECT FROM reactor.lanes WHERE lane = $1 AND owner = $2 AND epoch = $3 FOR SHARE
), due AS MATERIALIZED (
    SELECT ctid AS place FROM jobs
     WHERE id = ANY ($4::bigint[]) AND NOT processed
       AND fire_at <= (SELECT clock_timestamp() + $5::interval)
       AND shard = ANY (coalesce($6::smallint[], ARRAY(SELECT shard FROM reactor.shards WHERE owner = $2)))
       AND EXISTS (SELECT FROM lease)
     ORDER BY id
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE jobs SET processed = true, processed_at = greatest(fire_at, clock_timestamp())
     WHERE ctid = ANY (ARRAY(SELECT place FROM due))
    RETURNING id, topic, payload, fire_at, expires_at
), journalled AS (
    INSERT INTO reactor.in_flight (lane, epoch, token, qos, first_slot, job_ids)
    SELECT $1, $3, $7, $8, $9, array_agg(id ORDER BY fire_at, id) FROM claimed HAVING count(*) > 0
    RETURNING batch
)
SELECT batch, id, topic, payload, fire_at, expires_at, clock_timestamp() FROM journalled, claimed ORDER BY fire_at, id`

// Claim implements reactor.Journal.
func (s *Source) Claim(ctx context.Context, req reactor.ClaimRequest) (reactor.Batch, error) {
	slices.Sort(req.IDs)
	batch := reactor.Batch{FirstSlot: req.FirstSlot, QoS: req.Delivery.QoS(), Jobs: make([]reactor.Job, 0, len(req.IDs))}
	rows, err := s.queryClaim(ctx, s.work, req)
	if err == nil {
		err = readClaim(rows, &batch)
	}
	if err != nil {
		return reactor.Batch{}, commitOutcome(s.failed("claim batch", err))
	}
	if len(batch.Jobs) > 0 {
		return batch, nil
	}
	// Nothing was left to take, or we are not the one to take it.
	batch.At, err = s.checkLease(ctx, req.Lease)
	return batch, err
}

// queryClaim sends a claim.
func (s *Source) queryClaim(ctx context.Context, db querier, req reactor.ClaimRequest) (pgx.Rows, error) {
	return db.Query(ctx, claimSQL,
		req.Lease.Lane, req.Lease.Owner, req.Lease.Epoch, req.IDs, interval(req.Within),
		smallints(req.Static), pgtype.UUID{Bytes: req.Token, Valid: true}, req.Delivery.QoS(), int32(req.FirstSlot))
}

// checkLease returns the database's time, or ErrLeaseLost.
func (s *Source) checkLease(ctx context.Context, lease reactor.Lease) (reactor.DBTime, error) {
	var (
		now  dbTime
		held bool
	)
	err := s.work.QueryRow(ctx, "SELECT clock_timestamp(), EXISTS (SELECT FROM reactor.lanes WHERE lane = $1 AND owner = $2 AND epoch = $3)",
		lease.Lane, lease.Owner, lease.Epoch).Scan(&now, &held)
	if err == nil && !held {
		return now.DBTime, reactor.ErrLeaseLost
	}
	return now.DBTime, s.failed("check lease", err)
}

// ResolveClaim implements reactor.Journal.
//
// The backend that runs the claim may still be at it. Raising the epoch waits for
// that claim's lock on the lane and makes any later commit of it impossible; only
// then does the journal tell the truth. If we die before the commit, the lane is
// recovered with its old epoch; if after, with the new one: the same batches.
func (s *Source) ResolveClaim(ctx context.Context, req reactor.ClaimRequest) (reactor.Batch, reactor.Lease, bool, error) {
	batch, lease := reactor.Batch{}, req.Lease
	ok := false
	err := pgx.BeginFunc(ctx, s.work, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			UPDATE reactor.lanes SET epoch = epoch + 1 WHERE lane = $1 AND owner = $2 AND epoch >= $3 RETURNING epoch`,
			lease.Lane, lease.Owner, lease.Epoch).Scan(&lease.Epoch)
		if err == pgx.ErrNoRows {
			return reactor.ErrLeaseLost
		}
		if err != nil {
			return err
		}
		batches, err := readJournal(ctx, tx, lease.Lane, &req.Token)
		if err == nil && len(batches) == 1 {
			batch, ok = batches[0], true
		}
		return err
	})
	if err != nil {
		return reactor.Batch{}, req.Lease, false, s.failed("resolve claim", err)
	}
	return batch, lease, ok, nil
}
