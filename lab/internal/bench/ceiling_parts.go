package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The two parts of the ceiling, each alone: the bare claim, without a broker, and the bare
// broker, without a database.

// claimAll claims all jobs and deletes them from the journal, with a connection for each lane.
// It returns the number of jobs per second.
func (b Bare) claimAll(ctx context.Context) (perSecond float64, err error) {
	ids, err := b.ids(ctx)
	if err != nil {
		return 0, err
	}
	batches, begun := inBatches(ids), time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for lane := range b.Lanes {
		group.Go(func() error {
			return b.withConn(ctx, func(conn *pgx.Conn) error {
				for ids := range batches {
					batch, err := claimBare(ctx, conn, ids, -1-lane, b.Delivery.QoS())
					if err != nil {
						return err
					}
					if _, err := conn.Exec(ctx, "DELETE FROM reactor.in_flight WHERE batch = $1", batch.id); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	err = group.Wait()
	return float64(len(ids)) / time.Since(begun).Seconds(), err
}

// drainBroker publishes all jobs and returns. It does not write to the table.
func (b Bare) drainBroker(ctx context.Context) error {
	var messages []driver.Message
	if err := b.withConn(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT id, topic, payload FROM jobs WHERE "+loadCondition(b.After)+" ORDER BY id")
		if err != nil {
			return err
		}
		m := driver.Message{QoS: b.Delivery.QoS()}
		_, err = pgx.ForEachRow(rows, []any{&m.JobID, &m.Topic, &m.Payload}, func() error {
			m.Slot = driver.Slot(len(messages)%ceilingBatch + 1)
			messages = append(messages, m)
			m.Payload = nil // the next row gets new memory
			return nil
		})
		return err
	}); err != nil {
		return err
	}
	batches := inBatches(messages)
	group, ctx := errgroup.WithContext(ctx)
	for lane := range b.Lanes {
		group.Go(func() error {
			p, err := openPublisher(ctx, b.BrokerURL, fmt.Sprint("reactor-bench-broker", lane), b.Delivery)
			if err != nil {
				return err
			}
			defer p.close(context.WithoutCancel(ctx))
			for batch := range batches {
				if err := p.send(ctx, batch); err != nil {
					return err
				}
				if b.Delivery.QoS() == 2 {
					if err := p.release(ctx, batch); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return group.Wait()
}
