package mqttsink

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor"
)

// read hands on what the broker answers, until the connection ends; it returns why.
// Acknowledgements that arrived together are reported together.
func (s *session) read() error {
	var acks []reactor.Ack
	for {
		if s.reader.Buffered() == 0 {
			if len(acks) > 0 {
				s.report(acks)
				acks = acks[:0]
			}
			if err := s.awaitPacket(); err != nil {
				return err
			}
		}
		ack, ok, err := s.readPacket()
		if err != nil {
			if len(acks) > 0 {
				s.report(acks) // they count, whatever came after them
			}
			return err
		}
		if ok {
			acks = append(acks, ack)
		}
	}
}

// awaitPacket blocks for the next packet. The broker answers a PINGREQ every
// interval, so a silence of one and a half means that it is gone.
func (s *session) awaitPacket() error {
	if s.keepAlive > 0 && !s.isClosing() {
		if err := s.conn.SetReadDeadline(time.Now().Add(s.keepAlive + s.keepAlive/2)); err != nil {
			return fmt.Errorf("receive: %w", err)
		}
	}
	_, err := s.reader.Peek(1)
	return s.explainRead(err)
}

func (s *session) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state != running
}

func (s *session) explainRead(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the broker has been silent for %v, not even answering a ping", s.keepAlive+s.keepAlive/2)
	case errors.Is(err, io.EOF):
		return errors.New("the broker closed the connection")
	}
	return fmt.Errorf("receive: %w", err)
}

// readPacket reads one packet; ok tells that it is an acknowledgement.
func (s *session) readPacket() (ack reactor.Ack, ok bool, err error) {
	if ack, ok := s.readPlainAck(); ok {
		return ack, true, nil
	}
	if err := checkLength(s.reader); err != nil {
		return ack, false, s.explainRead(err)
	}
	packet, err := packets.ReadPacket(s.reader)
	if err != nil {
		return ack, false, s.explainRead(err)
	}
	switch p := packet.Content.(type) {
	case *packets.Puback:
		ack = reactor.Ack{Slot: reactor.Slot(p.PacketID), Code: p.ReasonCode}
		if ack.Refused() {
			ack.Reason = reasonText(p.ReasonCode)
			if p.Properties != nil && p.Properties.ReasonString != "" {
				ack.Reason += ": " + p.Properties.ReasonString
			}
		}
		return ack, true, nil
	case *packets.Pingresp:
		return ack, false, nil
	case *packets.Disconnect:
		return ack, false, disconnected(p)
	}
	return ack, false, fmt.Errorf("the broker sent an unexpected %s", packet.PacketType())
}

// readPlainAck reads a PUBACK in its shortest form, or the one with just a reason code
// that accepts, without allocating: nearly all there are.
func (s *session) readPlainAck() (reactor.Ack, bool) {
	const shortest = 4
	if s.reader.Buffered() < shortest {
		return reactor.Ack{}, false
	}
	head, err := s.reader.Peek(shortest)
	if err != nil || head[0] != packets.PUBACK<<4 || head[1] < 2 || head[1] > 3 {
		return reactor.Ack{}, false
	}
	ack := reactor.Ack{Slot: reactor.Slot(binary.BigEndian.Uint16(head[2:]))}
	length := int(2 + head[1])
	if length > shortest {
		if s.reader.Buffered() < length {
			return reactor.Ack{}, false
		}
		head, err = s.reader.Peek(length)
		if err != nil || head[4] >= 0x80 {
			return reactor.Ack{}, false
		}
		ack.Code = head[4]
	}
	_, _ = s.reader.Discard(length) // it is buffered
	return ack, true
}

// maxAnswer bounds the packets a broker may send us. We subscribe to nothing, and
// CONNECT tells the broker so.
const maxAnswer = 64 << 10

var errTooLong = errors.New("the broker sent a packet larger than we allowed")

// checkLength looks at the remaining length of the next packet [MQTT 5, 1.5.5]. The
// codec allocates whatever it announces, up to 256 MB.
func checkLength(r *bufio.Reader) error {
	length := 0
	for i := 1; i <= 4; i++ {
		head, err := r.Peek(i + 1)
		if err != nil {
			return err
		}
		length |= int(head[i]&0x7F) << (7 * (i - 1))
		if head[i]&0x80 == 0 {
			break
		}
	}
	if length > maxAnswer {
		return errTooLong
	}
	return nil
}

// disconnected is the error of a DISCONNECT from the broker.
func disconnected(p *packets.Disconnect) error {
	if p.ReasonCode == packets.DisconnectSessionTakenOver {
		return reactor.ErrSessionTakenOver
	}
	text := reasonText(p.ReasonCode)
	if p.Properties != nil && p.Properties.ReasonString != "" {
		text += ": " + p.Properties.ReasonString
	}
	return fmt.Errorf("the broker disconnected us: %s", text)
}
