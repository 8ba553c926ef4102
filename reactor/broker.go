package reactor

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/job-publisher/reactor/reactor/driver"
)

// broker holds what all lanes of an instance know about the broker, and share.
type broker struct {
	sink driver.Sink
	// accepted tells that the broker has accepted a connection of ours. From then on its
	// absence does not end the instance.
	accepted atomic.Bool
	unmarked sync.Once // guards the warning that sessions cannot be marked
	// passing is the driver.Passing that was found last, plus 1; 0: none was.
	passing atomic.Int32

	// checked has capacity one. Its value holds the brokers that are known to tell clients apart
	// by their client ids, by driver.Limits.Broker. Whoever receives the value does the check; the
	// others wait until it is put back.
	checked chan map[string]bool
}

func newBroker(sink driver.Sink) *broker {
	b := &broker{sink: sink, checked: make(chan map[string]bool, 1)}
	b.checked <- map[string]bool{}
	return b
}

// Connect opens a session (driver.Sink).
func (b *broker) Connect(ctx context.Context, opts driver.ConnectOptions) (driver.Session, error) {
	return b.sink.Connect(ctx, opts)
}

// checkIdentity finds out, once, whether the broker at an address tells clients apart by their
// client ids. If it does not, all lanes share one session, and nothing may be sent. A lane calls
// it right after connecting, before it sends anything.
func (b *broker) checkIdentity(ctx context.Context, address string, qos byte) error {
	return b.check(ctx, address, qos, false)
}

// recheckIdentity checks again, whatever was found before: a broker that was restarted may have
// a new configuration.
func (b *broker) recheckIdentity(ctx context.Context, address string, qos byte) error {
	return b.check(ctx, address, qos, true)
}

func (b *broker) check(ctx context.Context, address string, qos byte, again bool) (err error) {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case checked := <-b.checked:
		if !checked[address] || again {
			err = b.sink.CheckIdentity(ctx, address, qos)
			checked[address] = err == nil
		}
		b.checked <- checked
		return err
	}
}

// hasAccepted notes that a lane is connected.
func (b *broker) hasAccepted() { b.accepted.Store(true) }

// everAccepted reports whether a lane has ever been connected.
func (b *broker) everAccepted() bool { return b.accepted.Load() }

// cannotMark logs, once, that sessions cannot be marked.
func (b *broker) cannotMark(log *slog.Logger, why error) {
	b.unmarked.Do(func() {
		log.Warn("sessions cannot be marked at this broker: if it loses a session while an instance dies, messages on their way may be lost", "err", why)
	})
}
