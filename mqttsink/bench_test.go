package mqttsink

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// The stages of a message on its way to the broker. An op is one message, so that allocs/op shows
// its cost. BenchmarkEncode is with the codec's tests.

// BenchmarkAnswers reads PUBACKs that arrive together.
func BenchmarkAnswers(b *testing.B) {
	const n = 1000
	s := &session{reader: bufio.NewReaderSize(nil, readBuffer), worked: true, via: &broker{choice: newChoice(nil, 0, nil)}}
	source := bytes.NewReader(bytes.Repeat([]byte{0x40, 2, 0, 1}, n))
	b.ReportAllocs()
	for done := 0; done < b.N; done += n {
		_, _ = source.Seek(0, io.SeekStart)
		s.reader.Reset(source)
		_, _ = s.reader.Peek(4 * n)
		s.acks = s.acks[:0]
		if err := s.takeBuffered(); err != nil || len(s.acks) != n {
			b.Fatal(len(s.acks), err)
		}
	}
}

// BenchmarkSession publishes to a real broker without subscribers, a window at a time, and
// at QoS 2 releases each message that was received.
func BenchmarkSession(b *testing.B) {
	for _, qos := range []byte{0, 1, 2} {
		b.Run(fmt.Sprint("QoS ", qos), func(b *testing.B) {
			ctx := testContext(b)
			// Answers are counted and not kept, because keeping them would dominate the
			// measurement.
			answers := make(chan int, 1<<16)
			session, err := newSink(b, Config{URL: testkit.Broker(b).URL()}).Connect(ctx, driver.ConnectOptions{
				ClientID: testkit.TopicPrefix(b), QoS: qos, Acks: func(acks []driver.Ack) { answers <- len(acks) },
			})
			if err != nil {
				b.Fatal(err)
			}
			await := func(n int) {
				for n > 0 {
					select {
					case got := <-answers:
						n -= got
					case <-session.Done():
						b.Fatal(session.Err())
					}
				}
			}
			window := messages(testkit.TopicPrefix(b)+"/x", qos, session.Limits().InFlight)
			slots := make([]driver.Slot, len(window))
			for i, m := range window {
				slots[i] = m.Slot
			}
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += len(window) {
				if err := session.Publish(window); err != nil {
					b.Fatal(err)
				}
				await(len(window))
				if qos == 2 {
					if err := session.Release(slots); err != nil {
						b.Fatal(err)
					}
					await(len(window))
				}
			}
			b.StopTimer()
			if err := session.Close(ctx); err != nil {
				b.Fatal(err)
			}
		})
	}
}
