package mqttsink

import (
	"bytes"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestPartialImmediateWrites: the socket takes a part of each message at once, in the middle of a
// packet, while pings are due all the time. Whole packets arrive, in order, and a release of which
// a part was sent does not count as unsent.
func TestPartialImmediateWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		var direct bytes.Buffer // what was taken at once
		var mu sync.Mutex
		s := &session{at: &broker{choice: newChoice(nil, 0, nil)}, conn: ours, keepAlive: 4 * time.Millisecond, writeTimeout: time.Second, wake: make(chan struct{}, 1), done: make(chan struct{}), closeCounts: &closeCounts{}, report: func([]driver.Ack) {}}
		const tick = 3 * time.Millisecond // of the pings
		begun := time.Now()
		s.immediate = func(b []byte) int {
			time.Sleep(tick - time.Since(begun)%tick) // a ping falls due at this very moment
			n := min(len(b), 3)
			mu.Lock()
			defer mu.Unlock()
			direct.Write(b[:n])
			return n
		}
		// The stream is what was taken at once and what the writer sends, in the order of both: the
		// writer sends only while nothing is taken.
		var stream bytes.Buffer
		take := func() {
			mu.Lock()
			defer mu.Unlock()
			stream.Write(direct.Bytes())
			direct.Reset()
		}
		go func() {
			var b [4096]byte
			for {
				n, err := theirs.Read(b[:])
				if err != nil {
					return
				}
				take()
				mu.Lock()
				stream.Write(b[:n])
				mu.Unlock()
			}
		}()
		stopped := make(chan error, 1)
		go func() { stopped <- s.write() }()
		const messages = 200
		for i := range messages {
			if err := s.Publish([]driver.Message{{Slot: driver.Slot(i%20 + 1), Topic: "topic", Payload: []byte{byte(i)}, QoS: 2}}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			s.mu.Lock()
			s.unanswered = 0
			s.mu.Unlock()
		}
		if err := s.Release([]driver.Slot{1}); err != nil {
			t.Fatal(err)
		}
		if left := s.Unreleased(); len(left) > 0 {
			t.Errorf("%v count as unsent, though a part was sent", left)
		}
		s.mu.Lock()
		s.state = ended
		s.mu.Unlock()
		ours.Close()
		s.wakeWriter()
		<-stopped
		take()
		mu.Lock()
		defer mu.Unlock()
		published, pings := 0, 0
		for {
			p, err := packets.ReadPacket(&stream)
			if err != nil {
				break
			}
			switch c := p.Content.(type) {
			case *packets.Publish:
				if c.Topic != "topic" || len(c.Payload) != 1 || c.Payload[0] != byte(published) {
					t.Fatalf("message %d is %v", published, c)
				}
				published++
			case *packets.Pingreq:
				pings++
			}
		}
		if published != messages || pings == 0 {
			t.Errorf("%d of %d messages arrived whole, and %d pings", published, messages, pings)
		}
	})
}
