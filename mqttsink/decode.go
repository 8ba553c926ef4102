package mqttsink

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

const (
	maxUint16 = 65535

	// readBuffer, in bytes, holds several thousand acknowledgements.
	readBuffer = 32 << 10
	// maxReceived is the largest packet, in bytes, that we accept; CONNECT announces it. What a
	// broker sends to a publisher has tens of bytes. The limit lets a packet be decoded in the read
	// buffer, and keeps us from trusting a false length: the codec would allocate that much memory.
	maxReceived = readBuffer
)

var errMalformed = errors.New("protocol error: the broker sent a malformed packet")

// splitPacket returns the first packet of b, and the rest. If b does not hold the whole packet,
// packet is nil and rest is b.
func splitPacket(b []byte) (packet, rest []byte, err error) {
	const lengthBytes = 4 // of a variable byte integer, at most [MQTT 5, 1.5.5]
	if len(b) < 2 {
		return nil, b, nil
	}
	length, n := binary.Uvarint(b[1:min(len(b), 1+lengthBytes)])
	if n <= 0 {
		if len(b) > lengthBytes {
			return nil, b, errMalformed
		}
		return nil, b, nil
	}
	size := 1 + n + int(length)
	switch {
	case size > maxReceived:
		return nil, b, fmt.Errorf("protocol error: the broker sent a packet of %d bytes, we take %d", size, maxReceived)
	case size > len(b):
		return nil, b, nil
	}
	return b[:size], b[size:], nil
}

// nextPacket blocks until a whole packet is in the reader's buffer, and returns it. It is valid
// until the next read.
func nextPacket(r *bufio.Reader) ([]byte, error) {
	for {
		buffered, _ := r.Peek(r.Buffered())
		packet, _, err := splitPacket(buffered)
		if err != nil {
			return nil, err
		}
		if packet != nil {
			_, _ = r.Discard(len(packet))
			return packet, nil
		}
		if _, err := r.Peek(len(buffered) + 1); err != nil {
			return nil, err
		}
	}
}

// decodeAck decodes a PUBACK, PUBREC or PUBCOMP [MQTT 5, 3.4, 3.5, 3.7], which have the same form.
// Those without properties, which are nearly all, it decodes without allocating.
func decodeAck(packet []byte) (driver.Ack, error) {
	if ack, ok := plainAck(packet); ok {
		return ack, nil
	}
	var (
		id         uint16
		code       byte
		properties = &packets.Properties{}
		err        error
	)
	switch packet[0] >> 4 {
	case packets.PUBREC:
		p := packets.Pubrec{Properties: properties}
		err = unpack(&p, packet)
		id, code = p.PacketID, p.ReasonCode
	case packets.PUBCOMP:
		p := packets.Pubcomp{Properties: properties}
		err = unpack(&p, packet)
		id, code = p.PacketID, p.ReasonCode
	default:
		p := packets.Puback{Properties: properties}
		err = unpack(&p, packet)
		id, code = p.PacketID, p.ReasonCode
	}
	if err != nil {
		return driver.Ack{}, err
	}
	ack := driver.Ack{Slot: driver.Slot(id), Step: step(packet), Code: code}
	if ack.Refused() {
		ack.Reason = withDetail(reasonText(code), properties.ReasonString)
	}
	return ack, nil
}

func step(packet []byte) driver.Step {
	switch packet[0] >> 4 {
	case packets.PUBREC:
		return driver.Received
	case packets.PUBCOMP:
		return driver.Released
	}
	return driver.Completed
}

// plainAck decodes three forms: the identifier alone, which means success; with a reason code; and
// with a reason code and no properties. Refusals are left to the codec, which reads their texts.
func plainAck(packet []byte) (ack driver.Ack, ok bool) {
	n := len(packet)
	if n < 4 || n > 6 || int(packet[1]) != n-2 || n == 6 && packet[5] != 0 {
		return ack, false
	}
	ack.Slot, ack.Step = driver.Slot(binary.BigEndian.Uint16(packet[2:])), step(packet)
	if n > 4 {
		ack.Code = packet[4]
	}
	return ack, !ack.Refused()
}

// decodeDisconnect decodes a DISCONNECT [MQTT 5, 3.14].
func decodeDisconnect(packet []byte) (*packets.Disconnect, error) {
	p := &packets.Disconnect{Properties: &packets.Properties{}}
	if len(packet) == 2 { // the short form of reason code 0, which the codec takes for an incomplete packet
		return p, nil
	}
	return p, unpack(p, packet)
}

// decodeConnack decodes a CONNACK [MQTT 5, 3.2]. A CONNACK of MQTT 3.1.1 has no properties, and
// other reason codes.
func decodeConnack(packet []byte) (*packets.Connack, error) {
	p := &packets.Connack{Properties: &packets.Properties{}}
	if len(packet) != 4 || packet[1] != 2 {
		return p, unpack(p, packet)
	}
	p.ReasonCode = packet[3]
	if p.ReasonCode < 0x80 {
		// Whatever the reason was, the broker does not speak MQTT 5.
		p.ReasonCode = packets.ConnackUnsupportedProtocolVersion
	}
	return p, nil
}

// unpack lets the codec decode what follows the fixed header.
func unpack(p packets.Packet, packet []byte) error {
	_, n := binary.Uvarint(packet[1:])
	if err := p.Unpack(bytes.NewBuffer(packet[1+n:])); err != nil {
		return fmt.Errorf("%w, a %s: %w", errMalformed, packetName(packet), err)
	}
	return nil
}

func packetName(packet []byte) string {
	kind := packets.ControlPacket{FixedHeader: packets.FixedHeader{Type: packet[0] >> 4}}
	if name := kind.PacketType(); name != "" {
		return name
	}
	return "packet of type 0"
}
