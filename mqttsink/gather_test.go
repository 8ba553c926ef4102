package mqttsink

import (
	"context"
	"net"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor"
)

// TestAnswersThatAreTooFewToGather: a broker that answers a single one of many messages is
// heard nevertheless, as is one that hangs up with a few.
func TestAnswersThatAreTooFewToGather(t *testing.T) {
	const sent = 4 * gatherFrom
	ctx := testContext(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accept := connack(t, 0, nil)
	heard := make(chan struct{})
	broker := make(chan error, 1)
	go func() {
		broker <- func() error {
			conn, err := listener.Accept()
			if err != nil {
				return err
			}
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			if _, err := packets.ReadPacket(conn); err != nil {
				return err
			}
			if _, err := conn.Write(accept); err != nil {
				return err
			}
			for range sent {
				if _, err := packets.ReadPacket(conn); err != nil {
					return err
				}
			}
			for id := byte(1); id <= 2; id++ {
				if _, err := conn.Write([]byte{packets.PUBACK << 4, 2, 0, id}); err != nil {
					return err
				}
				<-heard // one by one
			}
			_, err = conn.Write([]byte{packets.PUBACK << 4, 2, 0, 3, packets.PUBACK << 4, 2, 0, 4})
			return err
		}()
	}()
	t.Cleanup(func() { listener.Close() })

	session, acks := open(t, ctx, newSink(t, Config{URL: "mqtt://" + listener.Addr().String()}), "x", reactor.AtLeastOnce)
	if err := session.Publish(messages("x", 1, sent)); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		if got := acks.wait(t, ctx, n); len(got) != n || got[n-1].Slot != reactor.Slot(n) {
			t.Fatalf("acknowledgements %+v", got)
		}
		heard <- struct{}{}
	}
	<-session.Done()
	if got := acks.wait(t, ctx, 4); got[3].Slot != 4 {
		t.Errorf("the last acknowledgements are %+v", got)
	}
	if err := <-broker; err != nil {
		t.Error(err)
	}
}
