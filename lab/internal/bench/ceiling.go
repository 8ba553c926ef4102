package bench

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The ceiling is the highest rate at which a backlog can be drained, by a program that does
// nothing else: it has no wheel, no shards, no leases and no recovery, and it knows the ids
// beforehand. Each lane has three connections to the database, which work at the same time:
// one claims and journals, one publishes a batch as soon as the broker has acknowledged the
// last one, and one settles. At QoS 2 a batch is released after a commit that records that
// the broker has received it.

const ceilingBatch = 500

// ceilingClaim takes a batch and journals it, in one commit.
const ceilingClaim = `
WITH claimed AS (
    UPDATE jobs SET processed = true, processed_at = clock_timestamp()
     WHERE id = ANY ($1::bigint[]) AND NOT processed
    RETURNING id, topic, payload
), journalled AS (
    INSERT INTO reactor.in_flight (lane, epoch, token, qos, first_slot, job_ids)
    SELECT $2, 0, gen_random_uuid(), $3, 1, array_agg(id) FROM claimed
    RETURNING batch
)
SELECT batch, id, topic, payload FROM journalled, claimed`

// drainCeiling drains the table and returns.
func (b Bare) drainCeiling(ctx context.Context) error {
	ids, err := b.ids(ctx)
	if err != nil {
		return err
	}
	batches := inBatches(ids)
	group, ctx := errgroup.WithContext(ctx)
	for lane := range b.Lanes {
		group.Go(func() error { return b.drainLane(ctx, -1-lane, batches) })
	}
	return group.Wait()
}

// ids returns the ids of the load's jobs.
func (b Bare) ids(ctx context.Context) (ids []int64, err error) {
	err = b.withConn(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT id FROM jobs WHERE "+loadCondition(b.After)+" ORDER BY id")
		if err == nil {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		}
		return err
	})
	return ids, err
}

// inBatches splits a list into batches for several lanes.
func inBatches[T any](list []T) <-chan []T {
	batches := make(chan []T, len(list)/ceilingBatch+1)
	for batch := range slices.Chunk(list, ceilingBatch) {
		batches <- batch
	}
	close(batches)
	return batches
}

// bareBatch is a claimed batch.
type bareBatch struct {
	id       int64
	messages []driver.Message
}

func (b Bare) drainLane(ctx context.Context, lane int, batches <-chan []int64) error {
	p, err := openPublisher(ctx, b.BrokerURL, fmt.Sprint("reactor-bench-ceiling", lane), b.Delivery)
	if err != nil {
		return err
	}
	defer p.close(context.WithoutCancel(ctx))
	qos := b.Delivery.QoS()
	claimed, sent := make(chan bareBatch, 1), make(chan int64, 16)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(claimed)
		return b.withConn(ctx, func(conn *pgx.Conn) error {
			for ids := range batches {
				batch, err := claimBare(ctx, conn, ids, lane, qos)
				if err != nil {
					return err
				}
				select {
				case claimed <- batch:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	})
	group.Go(func() error {
		defer close(sent)
		return b.withConn(ctx, func(conn *pgx.Conn) error {
			for batch := range claimed {
				if err := p.send(ctx, batch.messages); err != nil {
					return err
				}
				if qos == 2 {
					if _, err := conn.Exec(ctx, "UPDATE reactor.in_flight SET settled = $2 WHERE batch = $1", batch.id, len(batch.messages)); err != nil {
						return err
					}
					if err := p.release(ctx, batch.messages); err != nil {
						return err
					}
				}
				select {
				case sent <- batch.id:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	})
	group.Go(func() error {
		return b.withConn(ctx, func(conn *pgx.Conn) error {
			for id := range sent {
				if _, err := conn.Exec(ctx, "DELETE FROM reactor.in_flight WHERE batch = $1", id); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return group.Wait()
}

func claimBare(ctx context.Context, conn *pgx.Conn, ids []int64, lane int, qos byte) (bareBatch, error) {
	rows, err := conn.Query(ctx, ceilingClaim, ids, lane, int16(qos))
	if err != nil {
		return bareBatch{}, err
	}
	var b bareBatch
	var m driver.Message
	_, err = pgx.ForEachRow(rows, []any{&b.id, &m.JobID, &m.Topic, &m.Payload}, func() error {
		m.Slot, m.QoS = driver.Slot(len(b.messages)+1), qos
		b.messages = append(b.messages, m)
		m.Payload = nil // the next row gets new memory
		return nil
	})
	return b, err
}
