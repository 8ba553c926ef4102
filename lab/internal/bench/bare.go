package bench

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor"
)

// Bare is somebody else who publishes the bench's jobs: what reactor is compared with.
// Like the instances it runs in a process of its own (reactor-lab bench-drain): in one with the
// subscriber, the two would share wake-ups, and look cheaper than they are.
type Bare struct {
	DatabaseURL, BrokerURL string
	Kind                   Kind
	Delivery               reactor.Delivery
	Lanes                  int
	Poll                   Poll
}

// Kind is a way of publishing without reactor.
type Kind string

// The kinds there are.
const (
	Ceiling Kind = "ceiling" // ends when the table is drained
	Broker  Kind = "broker"  // the same, but claims nothing
	Poller  Kind = "poller"  // goes on until it is told to stop
)

// Drain publishes.
func (b Bare) Drain(ctx context.Context) error {
	switch b.Kind {
	case Ceiling:
		return b.drainCeiling(ctx)
	case Broker:
		return b.drainBroker(ctx)
	case Poller:
		return b.poll(ctx)
	}
	return fmt.Errorf("there is no %q", b.Kind)
}

// withConn lends a connection of its own. Like reactor's, its statements go by indexes.
func (b Bare) withConn(ctx context.Context, use func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, b.DatabaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off"); err != nil {
		return err
	}
	return use(conn)
}
