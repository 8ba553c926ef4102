package mqttsink

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// FuzzAppendPublish compares our encoder with paho's decoder.
func FuzzAppendPublish(f *testing.F) {
	f.Add("a/b", []byte("payload"), int64(1), uint16(1), byte(1), false, false, uint32(0), "", "", []byte{}, "", "")
	f.Add("ü", []byte{}, int64(-1<<63), uint16(65535), byte(0), true, true, uint32(1), "text/plain", "a/answer", []byte("1"), "traceparent", "00-1")
	f.Add("x", bytes.Repeat([]byte("y"), 20000), int64(1<<62), uint16(7), byte(2), true, false, uint32(1<<31), "", "x", []byte{0xFF}, "a", strings.Repeat("b", 20000))
	f.Fuzz(func(t *testing.T, topic string, payload []byte, id int64, slot uint16, qos byte, dup, retain bool, expiry uint32, contentType, responseTopic string, correlation []byte, name, value string) {
		for _, s := range []string{topic, contentType, responseTopic, string(correlation), name, value} {
			if len(s) > 65535 {
				return
			}
		}
		qos %= 3
		m := driver.Message{Slot: driver.Slot(slot), JobID: id, Topic: topic, Payload: payload, QoS: qos, Dup: dup, Expiry: expiry}
		user := []packets.User{{Key: jobIDProperty, Value: strconv.FormatInt(id, 10)}}
		if retain || contentType+responseTopic+name != "" || len(correlation) > 0 {
			m.Properties = &driver.Properties{Retain: retain, ContentType: contentType, ResponseTopic: responseTopic, CorrelationData: correlation}
			if name != "" {
				m.Properties.User = []driver.UserProperty{{Name: name, Value: value}, {Name: name, Value: value}}
				user = append(user, packets.User{Key: name, Value: value}, packets.User{Key: name, Value: value})
			}
		}
		encoded := appendPublish([]byte("before"), m)[len("before"):]
		if len(encoded) != packetLength(m) {
			t.Fatalf("%d bytes, foretold %d", len(encoded), packetLength(m))
		}
		reader := bytes.NewReader(encoded)
		packet, err := packets.ReadPacket(reader)
		if err != nil || reader.Len() != 0 {
			t.Fatalf("cannot be decoded: %v, %d bytes left", err, reader.Len())
		}
		p := packet.Content.(*packets.Publish)
		if p.Topic != topic || !bytes.Equal(p.Payload, payload) || p.QoS != qos || p.Retain != retain || p.Duplicate != (dup && qos > 0) ||
			qos > 0 && p.PacketID != slot || !slices.Equal(p.Properties.User, user) {
			t.Fatalf("decoded as %v", p)
		}
		if got := p.Properties.MessageExpiry; (got != nil) != (expiry > 0) || got != nil && *got != expiry {
			t.Fatalf("the expiry is %v, want %d", got, expiry)
		}
		if got := p.Properties; got.ContentType != contentType || got.ResponseTopic != responseTopic || !bytes.Equal(got.CorrelationData, correlation) {
			t.Fatalf("decoded as %+v", got)
		}
	})
}

// FuzzReceive compares our decoding of an acknowledgement with that of paho's codec, and makes sure
// that no input makes the reader panic.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x10})
	f.Add([]byte{0x40, 3, 0, 2, 0x87})
	f.Add([]byte{0x40, 4, 0, 2, 0x87, 0})
	f.Add([]byte{0x40, 0x82, 0, 0, 2})
	f.Add([]byte{0x50, 2, 0, 1, 0x50, 3, 0, 2, 0x97, 0x70, 2, 0, 1, 0x70, 3, 0, 2, 0x92})
	f.Add([]byte{0x50, 4, 0, 2, 0x97, 0, 0x70, 5, 0, 2, 0x92, 1, 0})
	f.Add([]byte{0xD0, 0, 0xE0, 0})
	f.Add([]byte{0x90, 4, 0x10, 1, 0, 0, 0xB0, 4, 0x10, 1, 0, 0x11, 0x30, 4, 0, 1, 'x', 0})
	f.Add([]byte{0x90, 1, 0x10, 0xB0, 3, 0x10, 1, 9})
	f.Add([]byte{0x40, 1, 0, 2})
	f.Add([]byte{0xE0, 0xFF, 0xFF, 0xFF, 0x7F, 0})
	f.Add([]byte{0xE0, 1, 0x9D, 0xE0, 6, 0x9C, 4, 0x1C, 0, 1, 'h'}) // to another server
	f.Fuzz(func(t *testing.T, input []byte) {
		b := &broker{choice: newChoice(nil, 0, slog.New(slog.DiscardHandler))}
		s := &session{at: b, via: b}
		for rest := input; ; {
			packet, tail, err := splitPacket(rest)
			if err != nil || packet == nil {
				return
			}
			if len(tail) >= len(rest) || len(packet)+len(tail) != len(rest) {
				t.Fatalf("cut %d and %d bytes off %d", len(packet), len(tail), len(rest))
			}
			rest = tail
			before := len(s.acks)
			err = s.take(packet)
			theirs, theirErr := packets.ReadPacket(bytes.NewReader(packet))
			if theirErr != nil {
				if len(s.acks) > before {
					t.Fatalf("read %+v where the codec says %v", s.acks[before], theirErr)
				}
				continue
			}
			var want driver.Ack
			switch p := theirs.Content.(type) {
			case *packets.Puback:
				want = driver.Ack{Slot: driver.Slot(p.PacketID), Step: driver.Completed, Code: p.ReasonCode}
			case *packets.Pubrec:
				want = driver.Ack{Slot: driver.Slot(p.PacketID), Step: driver.Received, Code: p.ReasonCode}
			case *packets.Pubcomp:
				want = driver.Ack{Slot: driver.Slot(p.PacketID), Step: driver.Released, Code: p.ReasonCode}
			default:
				if len(s.acks) > before {
					t.Fatalf("took %s for an acknowledgement", theirs.PacketType())
				}
				continue
			}
			if len(s.acks) == before+1 {
				want.Reason = s.acks[before].Reason
			}
			if err != nil || len(s.acks) != before+1 || s.acks[before] != want {
				t.Fatalf("read %+v, %v, the codec %v", s.acks[before:], err, want)
			}
		}
	})
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	m := driver.Message{Slot: 9, JobID: 123456789, Topic: "a/b/c", Payload: []byte("payload"), QoS: 1}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(1000, func() { buf = appendPublish(buf[:0], m) }); n != 0 {
		t.Errorf("encoding allocates %v times", n)
	}
	const n = 2000
	s := &session{reader: bufio.NewReaderSize(nil, readBuffer), acks: make([]driver.Ack, 0, n), worked: true, via: &broker{choice: newChoice(nil, 0, nil)}}
	source := bytes.NewReader(bytes.Repeat([]byte{0x40, 2, 0, 1}, n))
	if allocs := testing.AllocsPerRun(100, func() {
		_, _ = source.Seek(0, io.SeekStart)
		s.reader.Reset(source)
		_, _ = s.reader.Peek(4 * n)
		s.acks = s.acks[:0]
		if err := s.takeBuffered(); err != nil || len(s.acks) != n {
			t.Fatal(len(s.acks), err)
		}
	}); allocs != 0 {
		t.Errorf("reading %d acknowledgements allocates %v times", n, allocs)
	}
}

func BenchmarkEncode(b *testing.B) {
	m := driver.Message{Slot: 9, JobID: 123456789, Topic: "job/test/topic", Payload: []byte(`{"Job": "12345"}`), QoS: 1}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf = appendPublish(buf[:0], m)
		}
	})
	b.Run("paho", func(b *testing.B) {
		b.ReportAllocs()
		var buf bytes.Buffer
		for b.Loop() {
			buf.Reset()
			p := packets.Publish{PacketID: 9, QoS: 1, Topic: m.Topic, Payload: m.Payload, Properties: &packets.Properties{}}
			p.Properties.User = []packets.User{{Key: jobIDProperty, Value: strconv.FormatInt(m.JobID, 10)}}
			_, _ = p.WriteTo(&buf)
		}
	})
}
