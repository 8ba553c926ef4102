package deploy

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// AwaitShares waits until each instance owns some of the 64 shards and all shards have an owner.
// It returns an error if an instance has ended, even with exit code 0, because then the
// condition can never become true.
func AwaitShares(ctx context.Context, conn *pgx.Conn, instances Programs) error {
	for {
		var shared bool
		err := conn.QueryRow(ctx, "SELECT count(owner) = 64 AND count(DISTINCT owner) = $1 FROM reactor.shards", len(instances)).Scan(&shared)
		if err != nil {
			return fmt.Errorf("wait for the instances: %w", err)
		}
		if shared {
			return nil
		}
		for _, p := range instances {
			if ended, err := p.ended(); err != nil {
				return err
			} else if ended {
				return fmt.Errorf("%s stopped before it owned a shard", p.Name)
			}
		}
		if !Sleep(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// Sleep waits for d or until ctx ends. It reports whether it has waited for d.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
