package mqttsink

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/sockopt"
	"github.com/job-publisher/reactor/reactor/driver"
)

// session implements driver.Session.
//
//	         Close            DISCONNECT written           the broker closes
//	running ───────► closing ───────────────────► disconnecting ─────────► ended
//	   │                │                               │                    ▲
//	   └────────────────┴──────────── any error ────────┴────────────────────┘
type session struct {
	at           *broker
	via          *broker // the one of the choice, see route
	conn         net.Conn
	broker       string // host:port, for errors
	clientID     string
	closeCounts  *closeCounts
	limits       driver.Limits // written before Connect returns
	keepAlive    time.Duration
	writeTimeout time.Duration // Config.WriteTimeout
	report       func([]driver.Ack)
	mayPublish   func() bool // ConnectOptions.MayPublish; nil: always

	reader   *bufio.Reader    // owned by read
	lowWater sockopt.LowWater // owned by read
	acks     []driver.Ack     // owned by read: read and not yet reported
	heard    bool             // owned by read: the broker has sent something after CONNACK
	worked   bool             // owned by read: see working.go
	pongs    int64            // owned by read: how many pings were answered
	referred bool             // owned by read: the broker has sent us to another one of the list

	// proof is the number of the first ping, from 1, behind a QoS 0 message, until that ping is answered; 0: there is none.
	proof atomic.Int64

	wake chan struct{} // one slot: there is something to write, or the session has ended
	done chan struct{} // closed when both goroutines have ended

	// immediate writes what the socket takes without waiting, and returns how much that is (writeNow);
	// nil: it is not possible.
	immediate func([]byte) int

	mu         sync.Mutex
	writing    bool                // guarded by mu: write has taken something, and is sending it
	buffer     []byte              // guarded by mu: encoded and not yet written; InFlight bounds it
	large      []largePayload      // guarded by mu: payloads to be written between parts of buffer
	unwritten  []driver.Slot       // guarded by mu: slots of the QoS 0 messages in buffer
	publishing bool                // guarded by mu: buffer has something that mayPublish has to allow
	releases   []driver.Slot       // guarded by mu: slots whose PUBREL is in buffer; after the end, those whose PUBREL was never sent
	unanswered int                 // guarded by mu: how many answers the broker still has to send
	pinged     int64               // guarded by mu: the number of the first ping, from 1, behind messages of which none has been answered since; 0: there is none
	ignored    time.Time           // guarded by mu: since when that ping is answered, and none of the messages; zero: it is not
	gathering  bool                // guarded by mu: the read deadline is that of gather
	asked      int                 // guarded by mu: how many requests were sent
	requests   map[uint16]*request // guarded by mu: requests that wait for an answer, by packet identifier
	state      sessionState        // guarded by mu
	discard    bool                // guarded by mu: our DISCONNECT ends the broker's session as well
	err        error               // guarded by mu: the first error
}

var _ driver.Session = (*session)(nil)

type sessionState uint8

const (
	running sessionState = iota
	// closing: nothing more is accepted; the writer sends the rest and DISCONNECT.
	closing
	// disconnecting: the writer sends DISCONNECT last; then the broker has to close the connection.
	disconnecting
	// ended: the connection is closed.
	ended
)

var (
	// errClosed is the end of a session that was closed without an error.
	errClosed = errors.New("the session is closed")
	// errAborted is the end of a session by Abort.
	errAborted = driver.ErrSessionGivenUp
	// errMayNotPublish: something is queued, and ConnectOptions.MayPublish does not allow it to be sent.
	errMayNotPublish = fmt.Errorf("%w: what is queued must not be sent any more, because the lane's lease is in doubt", driver.ErrSessionGivenUp)
	// errBrokerLeft: the lanes have left the broker for the next one.
	errBrokerLeft = fmt.Errorf("%w: its broker does not work, and the next one is tried", driver.ErrSessionGivenUp)
)

func (b *broker) newSession(conn net.Conn, reader *bufio.Reader, opts driver.ConnectOptions, agreed terms, via *broker) *session {
	session := &session{
		at: b, via: via, mayPublish: opts.MayPublish, conn: conn, reader: reader, lowWater: sockopt.NewLowWater(conn), immediate: sockopt.Immediate(conn), report: opts.Acks,
		broker: b.address, clientID: opts.ClientID, closeCounts: &b.closeCounts,
		limits: agreed.limits, keepAlive: agreed.keepAlive, writeTimeout: b.cfg.WriteTimeout,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	b.choice.begun(session)
	written := make(chan struct{})
	go func() {
		defer close(written)
		if err := session.write(); err != nil {
			session.end(err)
		}
	}()
	go func() {
		session.end(session.read())
		<-written
		b.choice.ended(session)
		close(session.done)
	}()
	return session
}

// ShouldLeave implements driver.Session.
func (s *session) ShouldLeave(ctx context.Context) bool {
	c := s.at.choice
	if c.ignores(s) {
		s.end(errBrokerLeft)
		return false
	}
	c.ask(ctx, s.clientID)
	return c.shouldLeave(ctx, s.via)
}

// Limits implements driver.Session.
func (s *session) Limits() driver.Limits { return s.limits }

// Done implements driver.Session.
func (s *session) Done() <-chan struct{} { return s.done }

// Err implements driver.Session.
func (s *session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Publish implements driver.Session.
//
// At the only broker neither a release nor a message at QoS 2 harms anybody, whoever sends it: the next owner's
// session is the same one, and ends ours. At another broker, and at a lower QoS, the message is published once more.
func (s *session) Publish(msgs []driver.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.sendError(); err != nil {
		return err
	}
	for i := range msgs {
		if len(msgs[i].Payload) < largeBytes {
			s.buffer = appendPublish(s.buffer, msgs[i])
		} else {
			s.buffer = appendHeader(s.buffer, msgs[i])
			s.large = append(s.large, largePayload{len(s.buffer), msgs[i].Payload})
		}
		if msgs[i].QoS == 0 {
			s.unwritten = append(s.unwritten, msgs[i].Slot)
		} else {
			s.unanswered++
		}
		s.publishing = s.publishing || msgs[i].QoS < 2 || s.limits.OtherBrokers
	}
	s.writeNow()
	return nil
}

// Release implements driver.Session.
func (s *session) Release(slots []driver.Slot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.sendError(); err != nil {
		return err
	}
	for _, slot := range slots {
		s.buffer = appendPubrel(s.buffer, slot)
	}
	s.releases = append(s.releases, slots...)
	s.unanswered += len(slots)
	s.publishing = s.publishing || s.limits.OtherBrokers
	s.writeNow()
	return nil
}

// Unreleased implements driver.Session.
func (s *session) Unreleased() []driver.Slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.releases
}

// sendError returns why nothing more can be sent, or nil. The caller holds mu.
func (s *session) sendError() error {
	if s.err == nil && s.state != running {
		return errClosed
	}
	return s.err
}

// Close implements driver.Session. It returns nil to every caller if everything accepted before was
// sent and the broker closed the connection after our DISCONNECT; otherwise the reason.
func (s *session) Close(ctx context.Context) error { return s.disconnect(ctx, false) }

// Discard implements driver.Session. Its result is that of Close.
func (s *session) Discard(ctx context.Context) error { return s.disconnect(ctx, true) }

// Abort implements driver.Session.
func (s *session) Abort() {
	s.end(errAborted)
	<-s.done
}

func (s *session) disconnect(ctx context.Context, discard bool) error {
	s.mu.Lock()
	s.discard = s.discard || discard
	if s.state == running {
		s.state = closing
		s.wakeWriter()
	}
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-ctx.Done():
		s.end(ctx.Err())
		<-s.done
	}
	if err := s.Err(); !errors.Is(err, errClosed) {
		return err
	}
	return nil
}

// end closes the connection. Only the first error is kept. If we give the session up, the system discards what
// it has not sent yet, as well as we do.
func (s *session) end(err error) {
	if errors.Is(err, driver.ErrSessionGivenUp) {
		if tcp, ok := plain(s.conn).(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	}
	s.mu.Lock()
	if s.state == disconnecting && errors.Is(err, errClosedByBroker) {
		err = errClosed // the regular end
	}
	if s.err == nil {
		s.err = err
	}
	s.state = ended
	s.mu.Unlock()
	closeNow(s.conn) // ends a read and a write
	s.wakeWriter()
}

func (s *session) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
