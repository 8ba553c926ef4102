package bench

import (
	"context"
	"fmt"
	"sync"

	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// publisher publishes without a scheduler, over one connection. The caller waits for the
// acknowledgements.
type publisher struct {
	session driver.Session

	mu        sync.Mutex
	changed   *sync.Cond // on mu: a counter has changed, or the wait has to end
	received  int        // guarded by mu
	completed int        // guarded by mu
	refused   int        // guarded by mu
}

func openPublisher(ctx context.Context, brokerURL, clientID string, delivery reactor.Delivery) (*publisher, error) {
	sink, err := mqttsink.New(mqttsink.Config{URL: brokerURL})
	if err != nil {
		return nil, err
	}
	p := &publisher{}
	p.changed = sync.NewCond(&p.mu)
	p.session, err = sink.Connect(ctx, driver.ConnectOptions{ClientID: clientID, QoS: delivery.QoS(), Acks: p.acks})
	return p, err
}

func (p *publisher) acks(acks []driver.Ack) {
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
	p.changed.Broadcast()
}

// send publishes messages, as many at once as the broker allows in flight. It returns when the
// broker has acknowledged all of them: with PUBACK at QoS 1, with PUBREC at QoS 2.
func (p *publisher) send(ctx context.Context, msgs []driver.Message) error {
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
func (p *publisher) release(ctx context.Context, msgs []driver.Message) error {
	slots := make([]driver.Slot, len(msgs))
	for i, m := range msgs {
		slots[i] = m.Slot
	}
	return p.await(ctx, &p.completed, len(slots), func() error { return p.session.Release(slots) })
}

// await calls do and waits until a counter has grown by n.
func (p *publisher) await(ctx context.Context, counter *int, n int, do func() error) error {
	stop := context.AfterFunc(ctx, p.wake)
	defer stop()
	returned := make(chan struct{})
	defer close(returned)
	go func() {
		select {
		case <-p.session.Done():
			p.wake()
		case <-returned:
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
		p.changed.Wait()
	}
	if p.refused > 0 {
		return fmt.Errorf("the broker refused %d messages", p.refused)
	}
	return nil
}

func (p *publisher) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed.Broadcast()
}

func (p *publisher) close(ctx context.Context) { _ = p.session.Close(ctx) }
