package mqttsink

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor"
)

// session implements reactor.Session.
type session struct {
	conn      net.Conn
	reader    *bufio.Reader // owned by read
	qos       byte
	limits    reactor.Limits
	keepAlive time.Duration // 0: none
	patience  time.Duration // with a broker that does not read
	report    func([]reactor.Ack)
	log       *slog.Logger

	wake  chan struct{} // one slot: there is something to write
	done  chan struct{} // closed when both goroutines have ended
	tasks sync.WaitGroup

	mu      sync.Mutex
	buffer  []byte         // guarded by mu: encoded and not written
	written []reactor.Slot // guarded by mu: QoS 0, in buffer
	state   sessionState   // guarded by mu
	err     error          // guarded by mu: the first one
}

type sessionState uint8

const (
	running sessionState = iota
	// closing: nothing more is accepted; the rest and DISCONNECT are written.
	closing
	// over: the connection is closed.
	over
)

var errClosed = errors.New("the session is closed")

func newSession(cfg Config, opts reactor.ConnectOptions, conn net.Conn, reader *bufio.Reader, accepted *packets.Connack) *session {
	s := &session{
		conn: conn, reader: reader, qos: opts.Delivery.QoS(), report: opts.Acks, log: cfg.Logger,
		keepAlive: cfg.KeepAlive.Round(time.Second), patience: cfg.WriteTimeout,
		limits: reactor.Limits{InFlight: cfg.InFlight, Resumed: accepted.SessionPresent},
		wake:   make(chan struct{}, 1), done: make(chan struct{}),
	}
	p := accepted.Properties
	if p.ReceiveMaximum != nil {
		s.limits.InFlight = min(s.limits.InFlight, int(*p.ReceiveMaximum))
	}
	if p.MaximumPacketSize != nil {
		s.limits.PacketBytes = int(*p.MaximumPacketSize)
	}
	if p.ServerKeepAlive != nil {
		s.keepAlive = time.Duration(*p.ServerKeepAlive) * time.Second
	}
	s.tasks.Add(2)
	go func() {
		defer s.tasks.Done()
		s.fail(s.read())
	}()
	go func() {
		defer s.tasks.Done()
		if err := s.write(); err != nil {
			s.fail(err)
		}
	}()
	go func() {
		s.tasks.Wait()
		close(s.done)
	}()
	return s
}

// Limits implements reactor.Session.
func (s *session) Limits() reactor.Limits { return s.limits }

// Done implements reactor.Session.
func (s *session) Done() <-chan struct{} { return s.done }

// Err implements reactor.Session.
func (s *session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Publish implements reactor.Session.
func (s *session) Publish(msgs []reactor.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != running {
		return errClosed
	}
	for i := range msgs {
		s.buffer = appendPublish(s.buffer, msgs[i], s.qos)
		if s.qos == 0 {
			s.written = append(s.written, msgs[i].Slot)
		}
	}
	s.wakeWriter()
	return nil
}

// Close implements reactor.Session.
func (s *session) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.state == running {
		s.state = closing
		s.wakeWriter()
	}
	s.mu.Unlock()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		s.fail(errClosed)
		<-s.done
		return ctx.Err()
	}
}

// fail ends the session; the first reason counts.
func (s *session) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
		if s.state == closing {
			s.err = errClosed
		}
	}
	s.state = over
	s.mu.Unlock()
	s.conn.Close() // ends a read and a write
	s.wakeWriter()
}

func (s *session) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
