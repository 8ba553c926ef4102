package bench

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// snapshot is a connection that holds a snapshot, as pg_dump, a report or a forgotten transaction
// does: as long as it is open, vacuum removes no row that was deleted or updated since.
type snapshot struct{ conn *pgx.Conn }

func (d *deployment) holdSnapshot(ctx context.Context) (*snapshot, error) {
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("hold a snapshot: %w", err)
	}
	// BEGIN takes no snapshot, the first statement does. A time limit of the role would end it.
	for _, sql := range []string{
		"SET idle_in_transaction_session_timeout = 0", "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM reactor.shards",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			_ = conn.Close(ctx) // the first error counts
			return nil, fmt.Errorf("hold a snapshot: %w", err)
		}
	}
	return &snapshot{conn}, nil
}

// release ends the transaction.
func (s *snapshot) release(ctx context.Context) error {
	if _, err := s.conn.Exec(ctx, "COMMIT"); err != nil {
		_ = s.conn.Close(ctx) // the first error counts
		return fmt.Errorf("the snapshot was not held until the end: %w", err)
	}
	return s.conn.Close(ctx)
}
