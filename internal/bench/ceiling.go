package bench

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/reactor"
)

// The ceiling is what a backlog could be drained at by somebody with nothing else to do:
// no wheel, no shards, no leases, no recovery. Ids are known beforehand; each lane has a
// connection that claims and journals, one that publishes, and one that settles, all at
// once. At QoS 2 a batch is released after a commit that says that it was received.

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

// drainBare drains the table.
func (d *deployment) drainBare(ctx context.Context) error {
	rows, err := d.conn.Query(ctx, "SELECT id FROM jobs WHERE topic LIKE '"+topicPrefix+"%' ORDER BY id")
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	batches := make(chan []int64, len(ids)/ceilingBatch+1)
	for len(ids) > 0 {
		n := min(ceilingBatch, len(ids))
		batches <- ids[:n]
		ids = ids[n:]
	}
	close(batches)
	group, ctx := errgroup.WithContext(ctx)
	for lane := range d.cfg.Lanes {
		group.Go(func() error { return d.drainBareLane(ctx, -1-lane, batches) })
	}
	return group.Wait()
}

// bareBatch is a claimed batch of the ceiling.
type bareBatch struct {
	id       int64
	messages []reactor.Message
}

func (d *deployment) drainBareLane(ctx context.Context, lane int, batches <-chan []int64) error {
	p, err := openPipe(ctx, d.broker, fmt.Sprint("reactor-bench-ceiling", lane), d.cfg.Delivery)
	if err != nil {
		return err
	}
	defer p.close(context.WithoutCancel(ctx))
	qos := d.cfg.Delivery.QoS()
	claimed, sent := make(chan bareBatch, 1), make(chan int64, 16)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(claimed)
		return d.withConn(ctx, func(conn *pgx.Conn) error {
			for ids := range batches {
				b, err := claimBare(ctx, conn, ids, lane, qos)
				if err != nil {
					return err
				}
				select {
				case claimed <- b:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	})
	group.Go(func() error {
		defer close(sent)
		return d.withConn(ctx, func(conn *pgx.Conn) error {
			for b := range claimed {
				if err := p.send(ctx, b.messages); err != nil {
					return err
				}
				if qos == 2 {
					if _, err := conn.Exec(ctx, "UPDATE reactor.in_flight SET settled = $2 WHERE batch = $1", b.id, len(b.messages)); err != nil {
						return err
					}
					slots := make([]reactor.Slot, len(b.messages))
					for i, m := range b.messages {
						slots[i] = m.Slot
					}
					if err := p.release(ctx, slots); err != nil {
						return err
					}
				}
				select {
				case sent <- b.id:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	})
	group.Go(func() error {
		return d.withConn(ctx, func(conn *pgx.Conn) error {
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
	var m reactor.Message
	_, err = pgx.ForEachRow(rows, []any{&b.id, &m.JobID, &m.Topic, &m.Payload}, func() error {
		m.Slot, m.QoS = reactor.Slot(len(b.messages)+1), qos
		b.messages = append(b.messages, m)
		m.Payload = nil // the next row gets memory of its own
		return nil
	})
	return b, err
}

// withConn lends a connection of its own. Like reactor's, its statements go by indexes.
func (d *deployment) withConn(ctx context.Context, use func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, d.database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off"); err != nil {
		return err
	}
	return use(conn)
}
