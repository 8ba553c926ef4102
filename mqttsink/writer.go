package mqttsink

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

var (
	pingreq    = []byte{packets.PINGREQ << 4, 0}
	disconnect = []byte{packets.DISCONNECT << 4, 0} // 0x00, normal disconnection
	// disconnectForGood is the same with a Session Expiry Interval of 0.
	disconnectForGood = []byte{packets.DISCONNECT << 4, 7, 0, 5, propSessionExpiryInterval, 0, 0, 0, 0}
)

const (
	// writeChunk is how many bytes the broker has to read within WriteTimeout. A larger value saves
	// system calls. A smaller one tells a slow line from a dead one: 512 messages of a megabyte may
	// take longer than the timeout, and a session that ended because of that would send all of them
	// again, for ever.
	writeChunk = 128 << 10
	// maxKeptBuffer is the largest write buffer, in bytes, that is used again.
	maxKeptBuffer = 1 << 20
	// promptBytes is how many bytes, and promptAnswers up to how many outstanding answers, are sent by
	// whoever has encoded something.
	promptBytes   = 2 << 10
	promptAnswers = 32
	// largeBytes is the length from which on a payload is not copied into the buffer, but written
	// from where it is. Below it a copy costs less than a separate write; above it the copy would
	// need memory several times, because the buffer grows.
	largeBytes = 64 << 10
)

// largePayload is a payload to be written after so many bytes of the buffer.
type largePayload struct {
	after   int
	payload []byte
}

// writeNow sends what Publish or Release has just encoded, without the detour of waking the goroutine
// that writes: on two busy cores that takes as long as everything else at fire_at. That goroutine
// sends the rest: what the socket does not take at once, large payloads, and whatever is encoded
// while it is sending. When much is under way, nobody waits for a single message, and larger writes
// are better. The caller holds mu.
func (s *session) writeNow() {
	if s.writing || len(s.large) > 0 || len(s.buffer) > promptBytes || s.unanswered > promptAnswers || s.immediate == nil || s.publishing && !s.allowed() {
		s.wakeWriter()
		return
	}
	n := s.immediate(s.buffer)
	if n > 0 {
		s.releases = s.releases[:0] // some may have been sent
	}
	s.buffer = append(s.buffer[:0], s.buffer[n:]...)
	s.publishing = len(s.buffer) > 0
	if len(s.buffer) > 0 || len(s.unwritten) > 0 {
		s.wakeWriter() // it also reports what was written
	}
}

// write sends what Publish and Release encode, unless they have sent it themselves (writeNow). While
// one write runs, the messages for the next collect: a busy session makes few large writes, and an
// idle one adds no delay. It returns nil after DISCONNECT was sent; the reader then waits until the
// broker closes the connection.
func (s *session) write() error {
	var (
		buffer   []byte // these four are swapped with the fields that Publish and Release fill
		large    []largePayload
		slots    []driver.Slot
		releases []driver.Slot
		acks     []driver.Ack
	)
	// Pings are sent whatever else is sent: at QoS 0 their answers are all that the broker ever
	// sends. They are sent a little more often than every keepAlive, which is the broker's limit.
	ping := time.NewTicker(s.keepAlive * 3 / 4)
	defer ping.Stop()
	pinged := int64(0)
	for {
		pings := false
		select {
		case <-s.wake:
		case <-ping.C:
			pings = true
		}
		s.mu.Lock()
		s.writing = true // until mu is held again, nobody else writes
		buffer, s.buffer = s.buffer, buffer[:0]
		large, s.large = s.large, large[:0]
		slots, s.unwritten = s.unwritten, slots[:0]
		releases, s.releases = s.releases, releases[:0]
		publishing := s.publishing
		s.publishing = false
		if pings && s.unanswered > 0 && s.pinged == 0 {
			s.pinged = pinged + 1
		}
		state := s.state
		s.mu.Unlock()
		if state == ended {
			s.keepReleases(releases)
			return errClosed
		}
		if len(slots) > 0 {
			s.proof.CompareAndSwap(0, pinged+1)
		}
		if pings {
			pinged++
			buffer = append(buffer, pingreq...) // behind the rest, which may begin within a packet (writeNow)
		}
		if written, err := s.sendAll(buffer, large, publishing); err != nil {
			if written == 0 {
				s.keepReleases(releases)
			}
			return err
		}
		clear(large) // so that the payloads can be freed
		if len(slots) > 0 {
			acks = acks[:0]
			for _, slot := range slots {
				acks = append(acks, driver.Ack{Slot: slot})
			}
			s.report(acks)
		}
		if cap(buffer) > maxKeptBuffer {
			buffer = nil
		}
		if state == closing {
			return s.sendDisconnect()
		}
		s.mu.Lock()
		s.writing = false // what was encoded meanwhile has woken us
		s.mu.Unlock()
	}
}

// keepReleases puts back the releases that were not sent.
func (s *session) keepReleases(slots []driver.Slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releases = append(slots, s.releases...)
}

// sendAll writes the buffer, with the large payloads at their positions. It returns how many bytes
// were written, like send. publishing tells that there is something among them that mayPublish has to allow.
func (s *session) sendAll(buffer []byte, large []largePayload, publishing bool) (written int, err error) {
	from := 0
	for _, l := range large {
		for _, part := range [][]byte{buffer[from:l.after], l.payload} {
			n, err := s.send(part, publishing)
			if written += n; err != nil {
				return written, err
			}
		}
		from = l.after
	}
	n, err := s.send(buffer[from:], publishing)
	return written + n, err
}

// send writes all of b. It gives up after WriteTimeout, because a broker that does not read would
// block its lane for ever. After an error the written bytes may have reached the broker; the rest
// certainly has not. Messages are sent only as long as the lane may publish: they may have been queued
// long ago, by the clock of others, if the process was frozen or the broker reads slowly.
func (s *session) send(b []byte, publishing bool) (written int, err error) {
	for len(b) > 0 {
		if publishing && !s.allowed() {
			return written, errMayNotPublish
		}
		n := min(len(b), writeChunk)
		if err := s.conn.SetWriteDeadline(time.Now().Add(s.writeTimeout)); err != nil {
			return written, fmt.Errorf("send: %w", err)
		}
		n, err := s.conn.Write(b[:n])
		written += n
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return written, explained(err, "the broker has not read what we send for %v", s.writeTimeout)
			}
			return written, s.explainIO("send", err)
		}
		if b = b[n:]; len(b) > 0 {
			// While this write lasts no ping is sent, so the broker need not send anything; it only
			// has to read.
			if err := s.allowSilence(); err != nil {
				return written, fmt.Errorf("send: %w", err)
			}
		}
	}
	return written, nil
}

// allowed reports whether messages may be sent now.
func (s *session) allowed() bool { return s.mayPublish == nil || s.mayPublish() }

// sendDisconnect sends DISCONNECT and closes our direction of the connection. The reader goes on
// until the broker closes the other direction: closing a socket with unread bytes resets the
// connection, and then the last packets may be lost.
func (s *session) sendDisconnect() error {
	packet := disconnect
	s.mu.Lock()
	if s.discard {
		packet = disconnectForGood
	}
	if s.state == closing {
		s.state = disconnecting // before the broker can receive it and close the connection
	}
	s.mu.Unlock()
	if _, err := s.send(packet, false); err != nil {
		return err
	}
	s.mu.Lock()
	err := s.conn.SetReadDeadline(time.Now().Add(s.writeTimeout))
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return fmt.Errorf("close: %w", err)
		}
	}
	return nil
}
