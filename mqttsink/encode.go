package mqttsink

import (
	"encoding/binary"
	"strconv"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// jobIDProperty is the user property that carries the job's id, so that consumers can remove
// duplicates.
const jobIDProperty = "job-id"

const (
	flagDup                   = 1 << 3
	publishQoS                = 3 << 1
	propUserProperty          = 38
	propSessionExpiryInterval = 17
	maxJobIDDigits            = 20
)

// appendPublish appends a PUBLISH packet [MQTT 5, 3.3] to buf. It is on the hot path and allocates
// only when buf has to grow. Tests and a fuzzer compare it with paho's codec.
func appendPublish(buf []byte, m driver.Message) []byte {
	return append(appendHeader(buf, m), m.Payload...)
}

// appendHeader appends the packet without its payload.
func appendHeader(buf []byte, m driver.Message) []byte {
	var digits [maxJobIDDigits]byte
	id := strconv.AppendInt(digits[:0], m.JobID, 10)
	properties := propertiesLength(len(id))

	first := byte(packets.PUBLISH<<4) | m.QoS<<1
	if m.Dup && m.QoS > 0 {
		first |= flagDup
	}
	buf = append(buf, first)
	buf = binary.AppendUvarint(buf, uint64(remainingLength(m, len(id)))) // the same as a variable byte integer
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(m.Topic)))
	buf = append(buf, m.Topic...)
	if m.QoS > 0 {
		buf = binary.BigEndian.AppendUint16(buf, uint16(m.Slot))
	}
	buf = append(buf, byte(properties), propUserProperty)
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(jobIDProperty)))
	buf = append(buf, jobIDProperty...)
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(id)))
	buf = append(buf, id...)
	return buf
}

// appendPubrel appends a PUBREL packet [MQTT 5, 3.6] with reason code 0.
func appendPubrel(buf []byte, slot driver.Slot) []byte {
	const reserved = 0b0010 // flags that the packet type must have
	return append(buf, packets.PUBREL<<4|reserved, 2, byte(slot>>8), byte(slot))
}

// propertiesLength is the length of the one property: identifier, name and value.
func propertiesLength(idDigits int) int { return 1 + 2 + len(jobIDProperty) + 2 + idDigits }

func remainingLength(m driver.Message, idDigits int) int {
	n := 2 + len(m.Topic) + 1 + propertiesLength(idDigits) + len(m.Payload)
	if m.QoS > 0 {
		n += 2
	}
	return n
}

// packetLength is the length of the whole packet in bytes.
func packetLength(m driver.Message) int {
	digits := len(strconv.AppendInt(make([]byte, 0, maxJobIDDigits), m.JobID, 10))
	n := remainingLength(m, digits)
	header := 2
	for rest := n; rest >= 128; rest >>= 7 {
		header++
	}
	return header + n
}
