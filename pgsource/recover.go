package pgsource

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor"
)

// leaseSQL keeps the lane from being taken over until the transaction ends. The epoch may
// have been raised by ourselves (ResolveClaim).
const leaseSQL = "SELECT EXISTS (SELECT FROM reactor.lanes WHERE lane = $1 AND owner = $2 AND epoch >= $3 FOR SHARE)"

// reopenSQL makes everything void that was said of the lane's QoS 2 batches, or that a
// connection we have given up is still about to say.
//
// If we die before the commit, the broker has a new, empty session already, and the next
// owner cannot tell it from the old one: it releases what was marked, the broker does not
// know it, and what it had lost stays lost. This takes two failures at once, a broker
// that forgets and an owner that dies within milliseconds of it. What was not marked is
// sent in any case. If we die after the commit, the next owner sends everything again,
// as we would have.
const reopenSQL = "UPDATE reactor.in_flight SET settled = 0, round = $2 WHERE lane = $1 AND qos = 2"

// Reopen implements reactor.Journal.
func (s *Source) Reopen(ctx context.Context, lease reactor.Lease, round int64) error {
	err := s.leased(ctx, lease, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, reopenSQL, lease.Lane, round)
		return err
	})
	return s.failed(fmt.Sprintf("reopen lane %d", lease.Lane), err)
}

// leased runs a transaction that commits only while the lane is ours.
func (s *Source) leased(ctx context.Context, lease reactor.Lease, do func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.work, func(tx pgx.Tx) error {
		var held bool
		err := tx.QueryRow(ctx, leaseSQL, lease.Lane, lease.Owner, lease.Epoch).Scan(&held)
		switch {
		case err != nil:
			return err
		case !held:
			return reactor.ErrLeaseLost
		}
		return do(tx)
	})
}

// Recover implements reactor.Journal. Dying before the commit leaves the journal
// as it was; dying after it leaves the same batches, without their settled parts,
// for the next recovery.
func (s *Source) Recover(ctx context.Context, lease reactor.Lease) ([]reactor.Batch, error) {
	var batches []reactor.Batch
	err := s.leased(ctx, lease, func(tx pgx.Tx) error {
		// Counting from the front again lets Settlement speak of Batch.Jobs.
		if _, err := tx.Exec(ctx, `
			UPDATE reactor.in_flight
			   SET job_ids = job_ids[settled + 1:], first_slot = (first_slot - 1 + settled) % $2 + 1, settled = 0
			 WHERE lane = $1 AND settled > 0 AND qos < 2`,
			lease.Lane, reactor.LaneSlots); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM reactor.in_flight WHERE lane = $1 AND job_ids = '{}'", lease.Lane); err != nil {
			return err
		}
		var err error
		batches, err = readJournal(ctx, tx, lease.Lane, nil)
		return err
	})
	return batches, s.failed(fmt.Sprintf("recover lane %d", lease.Lane), err)
}

// readJournal returns the lane's batches, or the one with the token. A job whose
// row was deleted since the claim keeps its place, without a topic.
func readJournal(ctx context.Context, tx pgx.Tx, lane int32, token *[16]byte) ([]reactor.Batch, error) {
	rows, err := tx.Query(ctx, `
		SELECT f.batch, f.round, f.settled, f.qos, f.first_slot, entry.id,
		       coalesce(job.topic, ''), coalesce(job.payload, ''), job.fire_at, job.expires_at
		  FROM reactor.in_flight f
		 CROSS JOIN LATERAL unnest(f.job_ids) WITH ORDINALITY AS entry (id, place)
		  LEFT JOIN jobs job ON job.id = entry.id
		 WHERE f.lane = $1 AND ($2::uuid IS NULL OR f.token = $2)
		 ORDER BY f.batch, entry.place`,
		lane, token)
	if err != nil {
		return nil, err
	}
	var (
		batches   []reactor.Batch
		id, round int64
		settled   int
		qos       int16
		firstSlot int32
		job       reactor.Job
		fire      dbTime
		expires   nullTime
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &round, &settled, &qos, &firstSlot, &job.ID, &job.Topic, &job.Payload, &fire, &expires}, func() error {
		if n := len(batches); n == 0 || batches[n-1].ID != id {
			batches = append(batches, reactor.Batch{ID: id, Round: round, Settled: settled, QoS: byte(qos), FirstSlot: reactor.Slot(firstSlot)})
		}
		job.FireAt, job.ExpiresAt, job.Expires = fire.DBTime, expires.DBTime, expires.valid
		batch := &batches[len(batches)-1]
		batch.Jobs = append(batch.Jobs, job)
		job.Payload = nil // the next row gets memory of its own
		return nil
	})
	return batches, err
}
