package reactor

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/job-publisher/reactor/reactor/driver"
)

// broker is what all lanes of an instance know together about the broker they connect to.
type broker struct {
	sink driver.Sink
	// accepted tells that it has accepted a connection of ours: from then on it may go away
	// without ending the instance.
	accepted atomic.Bool
	unmarked sync.Once // warned that its sessions cannot be marked
	// passing is the driver.Passing that was found last, and 1; 0: none was.
	passing atomic.Int32

	// checked has one place, for whether the broker was found to know clients by their client
	// ids. Who takes it out is the one to find out; the others wait.
	checked chan bool
}

func newBroker(sink driver.Sink) *broker {
	b := &broker{sink: sink, checked: make(chan bool, 1)}
	b.checked <- false
	return b
}

// Connect opens a session (driver.Sink).
func (b *broker) Connect(ctx context.Context, opts driver.ConnectOptions) (driver.Session, error) {
	return b.sink.Connect(ctx, opts)
}

// checkIdentity finds out, once, whether the broker knows clients by their client ids. Where
// it does not, all lanes are one session, and nothing may be sent. It is for a lane that has
// just connected, before it sends anything.
func (b *broker) checkIdentity(ctx context.Context, qos byte) error { return b.check(ctx, qos, false) }

// recheckIdentity is checkIdentity, whatever was found before: a broker that was started anew
// may have been configured anew.
func (b *broker) recheckIdentity(ctx context.Context, qos byte) error { return b.check(ctx, qos, true) }

func (b *broker) check(ctx context.Context, qos byte, again bool) (err error) {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case checked := <-b.checked:
		if !checked || again {
			err = b.sink.CheckIdentity(ctx, qos)
		}
		b.checked <- err == nil
		return err
	}
}

// hasAccepted notes that a lane is connected.
func (b *broker) hasAccepted() { b.accepted.Store(true) }

// everAccepted reports whether one ever was.
func (b *broker) everAccepted() bool { return b.accepted.Load() }

// cannotMark says, once, that sessions cannot be marked.
func (b *broker) cannotMark(log *slog.Logger, why error) {
	b.unmarked.Do(func() {
		log.Warn("sessions cannot be marked at this broker: should it lose one while an instance dies, messages on their way may be lost", "err", why)
	})
}
