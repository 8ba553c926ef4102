package deploy

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// AwaitShares waits until all instances of a database share its 64 shards. It fails when one
// of them has ended: also with exit code 0, for then they will never be all.
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
				return fmt.Errorf("%s stopped before it had a share of the table", p.Name)
			}
		}
		if !Sleep(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// Sleep waits, and reports whether it was for the whole time.
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
