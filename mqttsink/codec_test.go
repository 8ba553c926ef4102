package mqttsink

import (
	"bufio"
	"bytes"
	"errors"
	"strconv"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor"
)

// FuzzAppendPublish compares our encoder with paho's decoder.
func FuzzAppendPublish(f *testing.F) {
	f.Add("a/b", []byte("payload"), int64(1), uint16(1), byte(1), false)
	f.Add("ü", []byte{}, int64(-1<<63), uint16(65535), byte(0), true)
	f.Add("x", bytes.Repeat([]byte("y"), 20000), int64(1<<62), uint16(7), byte(1), true)
	f.Fuzz(func(t *testing.T, topic string, payload []byte, id int64, slot uint16, qos byte, dup bool) {
		if len(topic) > 65535 {
			return
		}
		qos %= 2
		m := reactor.Message{Slot: reactor.Slot(slot), JobID: id, Topic: topic, Payload: payload, Dup: dup}
		encoded := appendPublish([]byte("before"), m, qos)[len("before"):]
		if len(encoded) != packetLength(m, qos) {
			t.Fatalf("%d bytes, foretold %d", len(encoded), packetLength(m, qos))
		}
		reader := bytes.NewReader(encoded)
		packet, err := packets.ReadPacket(reader)
		if err != nil || reader.Len() != 0 {
			t.Fatalf("cannot be decoded: %v, %d bytes left", err, reader.Len())
		}
		p := packet.Content.(*packets.Publish)
		if p.Topic != topic || !bytes.Equal(p.Payload, payload) || p.QoS != qos || p.Retain || p.Duplicate != (dup && qos > 0) ||
			qos > 0 && p.PacketID != slot || len(p.Properties.User) != 1 || p.Properties.User[0] != (packets.User{Key: jobIDProperty, Value: strconv.FormatInt(id, 10)}) {
			t.Fatalf("decoded as %v", p)
		}
	})
}

// FuzzReadPacket compares our fast path for acknowledgements with paho's codec, and
// makes sure that no input makes the reader panic.
func FuzzReadPacket(f *testing.F) {
	f.Add([]byte{0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x10})
	f.Add([]byte{0x40, 3, 0, 2, 0x87})
	f.Add([]byte{0x40, 4, 0, 2, 0x87, 0})
	f.Add([]byte{0x40, 0x82, 0, 0, 2})
	f.Add([]byte{0xD0, 0, 0xE0, 0})
	f.Add([]byte{0x40, 1, 0, 2})
	f.Add([]byte{0xE0, 0xFF, 0xFF, 0xFF, 0x7F, 0})
	f.Fuzz(func(t *testing.T, input []byte) {
		plain := bufio.NewReader(bytes.NewReader(input))
		s := &session{reader: bufio.NewReader(bytes.NewReader(input))}
		for range 100 {
			if _, err := s.reader.Peek(1); err != nil { // the reader waits for a byte
				return
			}
			ack, ok, err := s.readPacket()
			if errors.Is(err, errTooLong) {
				return // the codec would read it, and allocate what it announces
			}
			packet, wantErr := packets.ReadPacket(plain)
			if wantErr != nil {
				if err == nil {
					t.Fatalf("read %+v where the codec says %v", ack, wantErr)
				}
				return
			}
			if want, isAck := packet.Content.(*packets.Puback); isAck {
				if !ok || ack.Slot != reactor.Slot(want.PacketID) || ack.Code != want.ReasonCode {
					t.Fatalf("read %+v, %t, %v, the codec %v", ack, ok, err, want)
				}
			} else if ok {
				t.Fatalf("took %s for an acknowledgement", packet.PacketType())
			}
			if err != nil {
				return
			}
		}
	})
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	m := reactor.Message{Slot: 9, JobID: 123456789, Topic: "a/b/c", Payload: []byte("payload")}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(1000, func() { buf = appendPublish(buf[:0], m, 1) }); n != 0 {
		t.Errorf("encoding allocates %v times", n)
	}
	acks := bytes.Repeat([]byte{0x40, 2, 0, 1}, 2000)
	source := bytes.NewReader(acks)
	s := &session{reader: bufio.NewReaderSize(source, 1<<14)}
	if n := testing.AllocsPerRun(1000, func() {
		_, _ = s.reader.Peek(4)
		if _, ok, err := s.readPacket(); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}); n != 0 {
		t.Errorf("reading an acknowledgement allocates %v times", n)
	}
}

func BenchmarkEncode(b *testing.B) {
	m := reactor.Message{Slot: 9, JobID: 123456789, Topic: "job/test/topic", Payload: []byte(`{"Job": "12345"}`)}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf = appendPublish(buf[:0], m, 1)
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
