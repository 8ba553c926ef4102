package mqttsink

import (
	"fmt"
	"net"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor"
)

var (
	pingreq    = []byte{packets.PINGREQ << 4, 0}
	disconnect = []byte{packets.DISCONNECT << 4, 0} // 0x00, normal disconnection
)

// maxKeptBuffer is the largest write buffer that is used again.
const maxKeptBuffer = 1 << 20

// write sends what Publish encodes. While one write is under way the next is
// gathered, so that a busy session makes few large writes and an idle one has no
// delay. It returns nil after a clean goodbye; the reader then waits for the broker
// to hang up.
func (s *session) write() error {
	var (
		spare     []byte
		slots     []reactor.Slot
		acks      []reactor.Ack
		probe     = newProbe(s.keepAlive)
		farewell  bool
		undecided sessionState
	)
	defer probe.stop()
	for {
		select {
		case <-s.wake:
		case <-probe.due():
			probe.rearm()
			if err := s.writeOut(pingreq); err != nil {
				return err
			}
			continue
		}
		s.mu.Lock()
		spare, s.buffer = s.buffer, spare[:0]
		slots, s.written = s.written, slots[:0]
		undecided = s.state
		s.mu.Unlock()
		if undecided == over {
			return errClosed
		}
		farewell = undecided == closing
		if len(spare) > 0 {
			if err := s.writeOut(spare); err != nil {
				return err
			}
		}
		if len(slots) > 0 {
			acks = acks[:0]
			for _, slot := range slots {
				acks = append(acks, reactor.Ack{Slot: slot})
			}
			s.report(acks)
		}
		if cap(spare) > maxKeptBuffer {
			spare = nil
		}
		if farewell {
			return s.sayGoodbye()
		}
	}
}

func (s *session) writeOut(b []byte) error {
	// A broker that does not read ends the session, or its lane would hang for ever.
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.patience)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if _, err := s.conn.Write(b); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// sayGoodbye sends DISCONNECT and closes our direction. The reader reads on until the
// broker closes the other: closing a socket with unread bytes resets the connection,
// and that may take the last packets down with it.
func (s *session) sayGoodbye() error {
	if err := s.writeOut(disconnect); err != nil {
		return err
	}
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return fmt.Errorf("close: %w", err)
		}
	}
	return s.conn.SetReadDeadline(time.Now().Add(s.patience))
}

var _ interface{ CloseWrite() error } = (*net.TCPConn)(nil)

// probe tells when a PINGREQ is due: every interval, whatever else is sent, because
// at QoS 0 its answer is all that the broker ever sends.
type probe struct {
	interval time.Duration
	timer    *time.Timer
}

func newProbe(keepAlive time.Duration) *probe {
	p := &probe{interval: keepAlive}
	if keepAlive > 0 {
		p.timer = time.NewTimer(keepAlive)
	}
	return p
}

func (p *probe) due() <-chan time.Time {
	if p.timer == nil {
		return nil
	}
	return p.timer.C
}

func (p *probe) rearm() {
	if p.timer != nil {
		p.timer.Reset(p.interval)
	}
}

func (p *probe) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}
