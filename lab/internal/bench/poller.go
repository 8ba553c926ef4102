package bench

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// The poller is the design that reactor replaces: it reads some due rows, publishes them, marks
// them as processed, waits, and repeats this. One transaction holds the locks of the rows from
// the read to the mark.

const pollSQL = `
SELECT id, topic, payload FROM jobs
 WHERE NOT processed AND fire_at <= clock_timestamp() ORDER BY fire_at LIMIT $1 FOR UPDATE SKIP LOCKED`

// pollIndex is the index that a poller needs. reactor's own index begins with the shard.
const pollIndex = "CREATE INDEX reactor_bench_poll ON jobs (fire_at) WHERE NOT processed"

// poll runs a poller until ctx ends.
func (b Bare) poll(ctx context.Context) error {
	p, err := openPublisher(ctx, b.BrokerURL, "reactor-bench-poller", reactor.AtLeastOnce)
	if err != nil {
		return err
	}
	defer p.close(context.WithoutCancel(ctx))
	return b.withConn(ctx, func(conn *pgx.Conn) error {
		tick := time.NewTicker(max(b.Poll.Every, time.Microsecond))
		defer tick.Stop()
		for {
			if err := b.pollOnce(ctx, conn, p); err != nil {
				return err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
}

func (b Bare) pollOnce(ctx context.Context, conn *pgx.Conn, p *publisher) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, pollSQL, b.Poll.Rows)
		if err != nil {
			return err
		}
		var (
			msgs []driver.Message
			ids  []int64
			m    driver.Message
		)
		if _, err := pgx.ForEachRow(rows, []any{&m.JobID, &m.Topic, &m.Payload}, func() error {
			m.Slot, m.QoS = driver.Slot(len(msgs)%driver.LaneSlots+1), 1
			msgs, ids = append(msgs, m), append(ids, m.JobID)
			m.Payload = nil
			return nil
		}); err != nil || len(ids) == 0 {
			return err
		}
		if err := p.send(ctx, msgs); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE jobs SET processed = true, processed_at = clock_timestamp() WHERE id = ANY ($1)", ids)
		return err
	})
}
