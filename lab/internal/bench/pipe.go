package bench

import (
	"context"
	"fmt"
	"sync"

	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// pipe publishes without a scheduler: a bare connection on which the caller waits.
type pipe struct {
	session driver.Session

	mu        sync.Mutex
	moved     *sync.Cond // on mu
	received  int        // guarded by mu
	completed int        // guarded by mu
	refused   int        // guarded by mu
}

func openPipe(ctx context.Context, brokerURL, clientID string, delivery reactor.Delivery) (*pipe, error) {
	sink, err := mqttsink.New(mqttsink.Config{URL: brokerURL})
	if err != nil {
		return nil, err
	}
	p := &pipe{}
	p.moved = sync.NewCond(&p.mu)
	p.session, err = sink.Connect(ctx, driver.ConnectOptions{ClientID: clientID, QoS: delivery.QoS(), Acks: p.acks})
	return p, err
}

func (p *pipe) acks(acks []driver.Ack) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range acks {
		if a.Refused() {
			p.refused++
		}
		if a.Step == driver.Received {
			p.received++
		} else {
			p.completed++
		}
	}
	p.moved.Broadcast()
}

// send publishes as many at once as the broker takes, and waits until it has answered
// them all: at QoS 2 with PUBREC.
func (p *pipe) send(ctx context.Context, msgs []driver.Message) error {
	window := p.session.Limits().InFlight
	for len(msgs) > 0 {
		n := min(window, len(msgs))
		counter := &p.completed
		if msgs[0].QoS == 2 {
			counter = &p.received
		}
		if err := p.await(ctx, counter, n, func() error { return p.session.Publish(msgs[:n]) }); err != nil {
			return err
		}
		msgs = msgs[n:]
	}
	return nil
}

// release sends the PUBRELs and waits for the PUBCOMPs.
func (p *pipe) release(ctx context.Context, msgs []driver.Message) error {
	slots := make([]driver.Slot, len(msgs))
	for i, m := range msgs {
		slots[i] = m.Slot
	}
	return p.await(ctx, &p.completed, len(slots), func() error { return p.session.Release(slots) })
}

// await does something and waits for a counter to grow by n.
func (p *pipe) await(ctx context.Context, counter *int, n int, do func() error) error {
	stop := context.AfterFunc(ctx, p.wake)
	defer stop()
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		select {
		case <-p.session.Done():
			p.wake()
		case <-gone:
		}
	}()
	p.mu.Lock()
	goal := *counter + n
	p.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for *counter < goal {
		select {
		case <-p.session.Done():
			return p.session.Err()
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		p.moved.Wait()
	}
	if p.refused > 0 {
		return fmt.Errorf("the broker refused %d messages", p.refused)
	}
	return nil
}

func (p *pipe) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moved.Broadcast()
}

func (p *pipe) close(ctx context.Context) { _ = p.session.Close(ctx) }
