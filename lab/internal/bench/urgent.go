package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// Urgent jobs are those of a second application: while the load is published, it inserts one at
// a time, each due at once. Their lateness is reported by itself.

// urgentTopic matches their topics, in SQL.
const urgentTopic = topicPrefix + "urgent/%"

const urgentSQL = "INSERT INTO jobs (topic, payload, fire_at) VALUES ('" + topicPrefix + "urgent/1', 'now', clock_timestamp())"

// urgents inserts urgent jobs.
type urgents struct {
	conn     *pgx.Conn
	every    time.Duration
	inserted atomic.Int64
	cancel   context.CancelFunc
	done     chan error // nil until start
}

// newUrgents connects. The jobs begin with start.
func (d *deployment) newUrgents(ctx context.Context) (*urgents, error) {
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("the urgent jobs: %w", err)
	}
	return &urgents{conn: conn, every: d.cfg.Load.UrgentEvery}, nil
}

// start inserts a job now and one every so often, until stop.
func (u *urgents) start(ctx context.Context) {
	if u.done != nil {
		return
	}
	ctx, u.cancel = context.WithCancel(ctx)
	u.done = make(chan error, 1)
	go func() {
		tick := time.NewTicker(u.every)
		defer tick.Stop()
		for {
			// Not with ctx: a cancelled INSERT may have been committed, uncounted.
			if _, err := u.conn.Exec(context.WithoutCancel(ctx), urgentSQL); err != nil {
				u.done <- fmt.Errorf("the urgent jobs: %w", err)
				return
			}
			u.inserted.Add(1)
			select {
			case <-tick.C:
			case <-ctx.Done():
				u.done <- nil
				return
			}
		}
	}()
}

// stop ends the inserts. After it, inserted does not change. Stopping twice is no error.
func (u *urgents) stop() error {
	if u.cancel == nil {
		return nil
	}
	u.cancel()
	u.cancel = nil
	return <-u.done
}

func (u *urgents) close(ctx context.Context) error {
	err := u.stop()
	_ = u.conn.Close(ctx) // it has nothing left to do
	return err
}
