package mqttsink

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// errClosedByBroker: the broker closed the connection without a DISCONNECT.
var errClosedByBroker = errors.New("the broker closed the connection")

// read reports what the broker answers, until the connection ends; it returns the reason.
// Acknowledgements that arrive together are reported together, and none waits for the rest of
// another packet.
func (s *session) read() error {
	for {
		err := s.takeBuffered()
		if len(s.acks) > 0 {
			s.answered(len(s.acks))
			s.report(s.acks) // they are valid even if an error followed
			s.acks = s.acks[:0]
		}
		if err != nil {
			return err
		}
		if err := s.awaitMore(); err != nil {
			return err
		}
	}
}

// takeBuffered handles all whole packets in the buffer.
func (s *session) takeBuffered() error {
	buffered, _ := s.reader.Peek(s.reader.Buffered())
	rest := buffered
	for {
		packet, tail, err := splitPacket(rest)
		if err != nil {
			return err
		}
		if packet == nil {
			_, err := s.reader.Discard(len(buffered) - len(rest))
			return err
		}
		if err := s.take(packet); err != nil {
			return err
		}
		rest = tail
	}
}

// take handles one packet from the broker.
func (s *session) take(packet []byte) error {
	s.heard = true
	switch packet[0] >> 4 {
	case packets.PUBACK, packets.PUBREC, packets.PUBCOMP:
		ack, err := decodeAck(packet)
		if err != nil {
			return err
		}
		s.acks = append(s.acks, ack)
		if !ack.Refused() && (!s.worked || s.via.choice.doubted.Load()) {
			s.noteWork()
		}
		return nil
	case packets.SUBACK, packets.UNSUBACK:
		return s.answerRequest(packet)
	case packets.PINGRESP:
		s.notePong()
		return nil // its arrival has moved the read deadline
	case packets.PUBLISH:
		if packet[0]&publishQoS == 0 {
			return nil // somebody published to the topic of a mark; QoS 0 needs no answer
		}
	case packets.DISCONNECT:
		p, err := decodeDisconnect(packet)
		if err != nil {
			return err
		}
		if isRedirection(p.ReasonCode) {
			s.referred = s.at.choice.redirect(s, p.Properties.ServerReference)
		}
		return disconnected(p)
	}
	return fmt.Errorf("protocol error: the broker sent an unexpected %s", packetName(packet))
}

// awaitMore blocks until there is at least one byte more than is buffered. An incomplete packet is
// shorter than the buffer, so there is room for that byte.
func (s *session) awaitMore() error {
	if s.gather() {
		_, err := s.reader.Peek(s.reader.Buffered() + 1)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return s.received(err)
		}
		s.stopGathering()
	}
	if err := s.allowSilence(); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	s.lowWater.AckNow()
	_, err := s.reader.Peek(s.reader.Buffered() + 1)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return explained(err, "the broker has been silent for %v, not even answering a ping", s.silence())
	}
	return s.received(err)
}

func (s *session) received(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return errClosedByBroker
	}
	return s.explainIO("receive", err)
}

// explainIO explains a timeout that the operating system has detected (package sockopt).
func (s *session) explainIO(what string, err error) error {
	if errors.Is(err, syscall.ETIMEDOUT) {
		return explained(err, "the broker, or the network to it, has acknowledged nothing for %v", s.writeTimeout)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// silence is how long the broker may send nothing. It has to answer a PINGREQ more often than every
// keepAlive.
func (s *session) silence() time.Duration { return s.keepAlive + s.keepAlive/2 }

// allowSilence restarts the read deadline. After our DISCONNECT another deadline holds, and while
// answers are gathered a shorter one, which the writer must not move.
func (s *session) allowSilence() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state >= disconnecting || s.gathering {
		return nil
	}
	return s.conn.SetReadDeadline(time.Now().Add(s.silence()))
}

// disconnected returns the error for a DISCONNECT from the broker.
func disconnected(p *packets.Disconnect) error {
	if p.ReasonCode == packets.DisconnectSessionTakenOver {
		return driver.ErrSessionTakenOver
	}
	said := p.Properties.ReasonString
	if p.Properties.ServerReference != "" {
		said = strings.TrimSpace(said + " server " + p.Properties.ServerReference)
	}
	return &driver.DisconnectedError{Code: p.ReasonCode, Reason: withDetail(reasonText(p.ReasonCode), said)}
}
