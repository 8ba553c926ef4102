package reactor

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/job-publisher/reactor/reactor/driver"
)

// fakeBroker is a driver.Sink that keeps a session for each client id, with its mark, and answers at
// once, unless it is silent.
type fakeBroker struct {
	mu        sync.Mutex
	calls     []string              // guarded by mu
	marks     map[string]string     // guarded by mu: marks of the existing sessions
	open      map[string]*sessionOf // guarded by mu: the latest connection of each
	received  map[string]int        // guarded by mu: by topic, of released messages
	silent    bool                  // guarded by mu: answers to no message
	standby   bool                  // guarded by mu: its sessions should leave
	onLeave   func()                // guarded by mu; called without it, when a session is told to leave
	identity  error                 // guarded by mu: what the check of the identity finds
	away      bool                  // guarded by mu: no connection can be made
	onConnect func(client string)   // guarded by mu; called without it
	latest    driver.ConnectOptions // guarded by mu: of the latest connection
	address   string                // not changed once it is in use
	note      func(call string)     // called without mu
	// passing is when it passes messages on, and why that is unclear; guarded by mu.
	passing        driver.Passing
	passingUnclear error
}

func newFakeBroker() *fakeBroker {
	return &fakeBroker{marks: map[string]string{}, open: map[string]*sessionOf{}, passing: driver.PassesOnAtPublish, received: map[string]int{}}
}

func (b *fakeBroker) called(call string) {
	b.mu.Lock()
	b.calls = append(b.calls, call)
	b.mu.Unlock()
	if b.note != nil {
		b.note(call)
	}
}

func (b *fakeBroker) Connect(_ context.Context, opts driver.ConnectOptions) (driver.Session, error) {
	b.called("connect")
	b.mu.Lock()
	onConnect := b.onConnect
	b.mu.Unlock()
	if onConnect != nil {
		onConnect(opts.ClientID)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away {
		return nil, errAway
	}
	b.latest = opts
	if before := b.open[opts.ClientID]; before != nil {
		before.end(driver.ErrSessionTakenOver)
	}
	mark, present := b.marks[opts.ClientID]
	resumed := present && mark == opts.Mark
	if !present || opts.Fresh {
		b.marks[opts.ClientID] = ""
	}
	s := &sessionOf{
		broker: b, client: opts.ClientID, acks: opts.Acks, done: make(chan struct{}), answers: make(chan []driver.Ack, 1000),
		limits: driver.Limits{InFlight: 100, QoS: 2, Broker: b.address, Present: present, Resumed: resumed, Marked: resumed && mark != "", Standby: b.standby},
	}
	go s.answer()
	b.open[opts.ClientID] = s
	return s, nil
}

func (b *fakeBroker) CheckIdentity(context.Context, string, byte) error {
	b.called("check identity")
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.identity
}

// change changes the broker's behaviour.
func (b *fakeBroker) change(how func(b *fakeBroker)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	how(b)
}

// got is how often the broker has received a message, and sent returns the messages of a
// client's latest connection.
func (b *fakeBroker) got(topic string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.received[topic]
}

func (b *fakeBroker) sent(client string) []driver.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.open[client].sent)
}

func (b *fakeBroker) latestOptions() driver.ConnectOptions {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.latest
}

// hangUp ends the connection of a client.
func (b *fakeBroker) hangUp(client string, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[client].end(why)
}

// sessionOf is one connection.
type sessionOf struct {
	broker  *fakeBroker
	client  string
	limits  driver.Limits
	acks    func([]driver.Ack)
	answers chan []driver.Ack
	once    sync.Once
	why     error
	done    chan struct{}
	sent    []driver.Message // guarded by the broker's mu
}

func (s *sessionOf) ShouldLeave(context.Context) bool {
	s.broker.mu.Lock()
	onLeave := s.broker.onLeave
	s.broker.mu.Unlock()
	if s.limits.Standby && onLeave != nil {
		onLeave()
	}
	return s.limits.Standby
}

// PassesOn implements driver.Session.
func (s *sessionOf) PassesOn(context.Context) (driver.Passing, error) {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	return s.broker.passing, s.broker.passingUnclear
}

func (s *sessionOf) answer() {
	for {
		select {
		case <-s.done:
			return
		case acks := <-s.answers:
			s.acks(acks)
		}
	}
}

func (s *sessionOf) end(why error) {
	s.once.Do(func() {
		s.why = why
		close(s.done)
	})
}

func (s *sessionOf) Limits() driver.Limits      { return s.limits }
func (s *sessionOf) Check(driver.Message) error { return nil }
func (s *sessionOf) Publish(msgs []driver.Message) error {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	s.sent = append(s.sent, msgs...)
	if s.broker.silent {
		return nil
	}
	var acks []driver.Ack
	for _, m := range msgs {
		s.broker.received[m.Topic]++
		acks = append(acks, driver.Ack{Slot: m.Slot, Step: driver.Received})
	}
	s.answers <- acks
	return nil
}

func (s *sessionOf) Release(slots []driver.Slot) error {
	var acks []driver.Ack
	for _, slot := range slots {
		acks = append(acks, driver.Ack{Slot: slot, Step: driver.Released})
	}
	s.answers <- acks
	return nil
}
func (s *sessionOf) Unreleased() []driver.Slot { return nil }
func (s *sessionOf) Mark(_ context.Context, mark string) error {
	s.broker.called("leave mark")
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	s.broker.marks[s.client] = mark
	return nil
}
func (s *sessionOf) Done() <-chan struct{} { return s.done }
func (s *sessionOf) Err() error            { return s.why }
func (s *sessionOf) Close(context.Context) error {
	s.broker.called("disconnect")
	s.end(nil)
	return nil
}

func (s *sessionOf) Abort() {
	s.broker.called("abort")
	s.end(nil)
}

func (s *sessionOf) Discard(context.Context) error {
	s.broker.called("discard")
	s.broker.mu.Lock()
	delete(s.broker.marks, s.client)
	s.broker.mu.Unlock()
	s.end(nil)
	return nil
}

func (s *sessionOf) String() string { return fmt.Sprintf("session of %s", s.client) }
