package check_test

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/testkit"
)

// BenchmarkSubscriber measures how many messages per second the subscriber records. The
// sender does not wait for acknowledgements. Broker, sender and subscriber share the
// machine.
func BenchmarkSubscriber(b *testing.B) {
	for qos := range byte(2) {
		b.Run("QoS"+strconv.Itoa(int(qos)), func(b *testing.B) {
			ctx := testContext(b)
			broker := testkit.Broker(b).URL()
			prefix := testkit.TopicPrefix(b)
			s, err := check.Subscribe(ctx, check.SubscriberConfig{URL: broker, Filter: prefix + "/#", QoS: qos, Expect: b.N})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			conn, err := net.Dial("tcp", strings.TrimPrefix(broker, "mqtt://"))
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			w := bufio.NewWriterSize(conn, 64<<10)
			connect := packets.Connect{
				ProtocolName: "MQTT", ProtocolVersion: 5, CleanStart: true, ClientID: prefix, Properties: &packets.Properties{},
			}
			if _, err := connect.WriteTo(w); err != nil {
				b.Fatal(err)
			}
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			m := packets.Publish{Topic: prefix + "/x", QoS: qos, Payload: make([]byte, 40), Properties: &packets.Properties{}}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				m.PacketID = uint16(i%65535 + 1)
				m.Properties.User = []packets.User{{Key: "job-id", Value: strconv.Itoa(i)}}
				if _, err := m.WriteTo(w); err != nil {
					b.Fatal(err)
				}
				if i%1000 == 999 { // limit how many messages the broker has to queue
					if err := w.Flush(); err != nil {
						b.Fatal(err)
					}
					if i > 5000 {
						if err := s.WaitMessages(ctx, i-5000); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			if err := w.Flush(); err != nil {
				b.Fatal(err)
			}
			if err := s.WaitMessages(ctx, b.N); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
