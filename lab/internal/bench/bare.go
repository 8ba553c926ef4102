package bench

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor"
)

// Bare publishes the bench's jobs without reactor. reactor is compared with it. Like an
// instance it runs in its own process (reactor-lab bench-drain): in one process with the
// subscriber the two would share wake-ups, and their CPU time would be too low.
type Bare struct {
	DatabaseURL, BrokerURL string
	Kind                   Kind
	Delivery               reactor.Delivery
	Lanes                  int
	Poll                   Poll
	After                  int64 // only jobs with larger ids are the load
}

// Kind is a way of publishing without reactor.
type Kind string

// The kinds.
const (
	Ceiling Kind = "ceiling" // claims and publishes all jobs, then ends
	Broker  Kind = "broker"  // publishes all jobs without claiming them, then ends
	Poller  Kind = "poller"  // polls the table and publishes until it is stopped
	Floor   Kind = "floor"   // publishes each job at its time, without claiming any, then ends
	River   Kind = "river"   // has River publish the jobs until it is stopped
)

// Drain publishes the jobs, in the way of b.Kind.
func (b Bare) Drain(ctx context.Context) error {
	switch b.Kind {
	case Ceiling:
		return b.drainCeiling(ctx)
	case Broker:
		return b.drainBroker(ctx)
	case Poller:
		return b.poll(ctx)
	case Floor:
		return b.floor(ctx)
	case River:
		return b.river(ctx)
	}
	return fmt.Errorf("there is no kind %q", b.Kind)
}

// withConn calls use with a new connection. Like reactor's connections, it uses indexes only.
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
