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
	flagRetain                = 1
	flagDup                   = 1 << 3
	publishQoS                = 3 << 1
	propMessageExpiry         = 2
	propContentType           = 3
	propResponseTopic         = 8
	propCorrelationData       = 9
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
	properties := propertiesLength(m, len(id))

	first := byte(packets.PUBLISH<<4) | m.QoS<<1
	if m.Dup && m.QoS > 0 {
		first |= flagDup
	}
	if m.Properties != nil && m.Properties.Retain {
		first |= flagRetain
	}
	buf = append(buf, first)
	buf = binary.AppendUvarint(buf, uint64(remainingLength(m, properties))) // the same as a variable byte integer
	buf = appendString(buf, m.Topic)
	if m.QoS > 0 {
		buf = binary.BigEndian.AppendUint16(buf, uint16(m.Slot))
	}
	buf = binary.AppendUvarint(buf, uint64(properties))
	if m.Expiry > 0 {
		buf = binary.BigEndian.AppendUint32(append(buf, propMessageExpiry), m.Expiry)
	}
	buf = appendString(appendString(append(buf, propUserProperty), jobIDProperty), id)
	if p := m.Properties; p != nil {
		buf = appendProperties(buf, p)
	}
	return buf
}

func appendProperties(buf []byte, p *driver.Properties) []byte {
	if p.ContentType != "" {
		buf = appendString(append(buf, propContentType), p.ContentType)
	}
	if p.ResponseTopic != "" {
		buf = appendString(append(buf, propResponseTopic), p.ResponseTopic)
	}
	if p.CorrelationData != nil {
		buf = appendString(append(buf, propCorrelationData), p.CorrelationData)
	}
	for _, u := range p.User {
		buf = appendString(appendString(append(buf, propUserProperty), u.Name), u.Value)
	}
	return buf
}

// appendString appends a string, or binary data, with its length.
func appendString[T string | []byte](buf []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint16(buf, uint16(len(s))), s...)
}

// appendPubrel appends a PUBREL packet [MQTT 5, 3.6] with reason code 0.
func appendPubrel(buf []byte, slot driver.Slot) []byte {
	const reserved = 0b0010 // flags that the packet type must have
	return append(buf, packets.PUBREL<<4|reserved, 2, byte(slot>>8), byte(slot))
}

// propertiesLength is the length of all properties, without that of their length itself.
func propertiesLength(m driver.Message, idDigits int) int {
	n := 1 + 2 + len(jobIDProperty) + 2 + idDigits
	if m.Expiry > 0 {
		n += 1 + 4
	}
	p := m.Properties
	if p == nil {
		return n
	}
	if p.ContentType != "" {
		n += 1 + 2 + len(p.ContentType)
	}
	if p.ResponseTopic != "" {
		n += 1 + 2 + len(p.ResponseTopic)
	}
	if p.CorrelationData != nil {
		n += 1 + 2 + len(p.CorrelationData)
	}
	for _, u := range p.User {
		n += 1 + 2 + len(u.Name) + 2 + len(u.Value)
	}
	return n
}

func remainingLength(m driver.Message, properties int) int {
	n := 2 + len(m.Topic) + lengthOfLength(properties) + properties + len(m.Payload)
	if m.QoS > 0 {
		n += 2
	}
	return n
}

// lengthOfLength is how many bytes a variable byte integer takes.
func lengthOfLength(n int) int {
	bytes := 1
	for rest := n; rest >= 128; rest >>= 7 {
		bytes++
	}
	return bytes
}

// packetLength is the length of the whole packet in bytes.
func packetLength(m driver.Message) int {
	digits := len(strconv.AppendInt(make([]byte, 0, maxJobIDDigits), m.JobID, 10))
	n := remainingLength(m, propertiesLength(m, digits))
	return 1 + lengthOfLength(n) + n
}
