package pgsource

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor"
)

// Recover implements reactor.Journal. Dying before the commit leaves the journal
// as it was; dying after it leaves the same batches, without their settled parts,
// for the next recovery.
func (s *Source) Recover(ctx context.Context, lease reactor.Lease) ([]reactor.Batch, error) {
	var batches []reactor.Batch
	err := pgx.BeginFunc(ctx, s.work, func(tx pgx.Tx) error {
		var held bool
		err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM reactor.lanes WHERE lane = $1 AND owner = $2 AND epoch = $3 FOR SHARE)",
			lease.Lane, lease.Owner, lease.Epoch).Scan(&held)
		switch {
		case err != nil:
			return err
		case !held:
			return reactor.ErrLeaseLost
		}
		// Counting from the front again lets Settlement speak of Batch.Jobs.
		if _, err := tx.Exec(ctx, `
			UPDATE reactor.in_flight
			   SET job_ids = job_ids[settled + 1:], first_slot = (first_slot - 1 + settled) % $2 + 1, settled = 0
			 WHERE lane = $1 AND settled > 0`,
			lease.Lane, reactor.LaneSlots); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM reactor.in_flight WHERE lane = $1 AND job_ids = '{}'", lease.Lane); err != nil {
			return err
		}
		batches, err = readJournal(ctx, tx, lease.Lane, nil)
		return err
	})
	return batches, s.failed(fmt.Sprintf("recover lane %d", lease.Lane), err)
}

// readJournal returns the lane's batches, or the one with the token. A job whose
// row was deleted since the claim keeps its place, without a topic.
func readJournal(ctx context.Context, tx pgx.Tx, lane int32, token *[16]byte) ([]reactor.Batch, error) {
	rows, err := tx.Query(ctx, `
		SELECT f.batch, f.qos, f.first_slot, entry.id,
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
		batches       []reactor.Batch
		id            int64
		qos           int16
		firstSlot     int32
		job           reactor.Job
		fire, expires dbTime
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &qos, &firstSlot, &job.ID, &job.Topic, &job.Payload, &fire, &expires}, func() error {
		if n := len(batches); n == 0 || batches[n-1].ID != id {
			batches = append(batches, reactor.Batch{ID: id, QoS: byte(qos), FirstSlot: reactor.Slot(firstSlot)})
		}
		job.FireAt, job.ExpiresAt = fire.DBTime, expires.DBTime
		batch := &batches[len(batches)-1]
		batch.Jobs = append(batch.Jobs, job)
		job.Payload = nil // the next row gets memory of its own
		return nil
	})
	return batches, err
}
