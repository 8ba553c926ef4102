package mqttsink

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestAbort: what is queued behind a write that hangs is not sent any more.
func TestAbort(t *testing.T) {
	near, far := net.Pipe() // a Write lasts until it is read
	defer far.Close()
	b := newSink(t, Config{URL: "mqtt://127.0.0.1:1"}).choice.brokers[0]
	s := b.newSession(near, bufio.NewReader(near), driver.ConnectOptions{Acks: func([]driver.Ack) {}}, terms{keepAlive: time.Minute}, b)
	publish := func(topic string) {
		if err := s.Publish(messages(topic, 2, 1)); err != nil {
			t.Fatal(err)
		}
	}
	publish("first")
	if _, err := io.ReadFull(far, make([]byte, 1)); err != nil { // it is being written
		t.Fatal(err)
	}
	publish("second")
	s.Abort()
	if rest, err := io.ReadAll(far); len(rest) > 0 {
		t.Errorf("it has sent %q, %v", rest, err)
	}
	if err := s.Err(); !errors.Is(err, errAborted) {
		t.Errorf("it has ended with %v", err)
	}
}

// TestMayPublish: what was queued while the lane was allowed to publish is not sent when it is not any
// more, as after the process was frozen. A session that sends nothing goes on.
func TestMayPublish(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	var published atomic.Int64
	pinged, released := make(chan struct{}, 1), make(chan struct{}, 10)
	broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
		switch p.Type {
		case packets.PUBLISH:
			if p.Content.(*packets.Publish).Topic == "only broker" {
				released <- struct{}{}
				break
			}
			published.Add(1)
		case packets.PUBREL:
			released <- struct{}{}
		case packets.PINGREQ:
			select {
			case pinged <- struct{}{}:
			default:
			}
		}
		return reply{}
	})
	for name, use := range map[string]func(s driver.Session) error{
		"idle at first": func(s driver.Session) error { return s.Publish(messages("x", 2, 1)) },
		"many":          func(s driver.Session) error { return s.Publish(messages("x", 1, 300)) },
		"releases":      func(s driver.Session) error { return s.Release([]driver.Slot{1, 2}) },
	} {
		s, err := newSink(t, Config{URL: broker.url + ",mqtt://127.0.0.1:1", KeepAlive: time.Second}).Connect(ctx, driver.ConnectOptions{
			ClientID: name, QoS: 2, Acks: func([]driver.Ack) {}, MayPublish: func() bool { return false },
		})
		if err != nil {
			t.Fatal(err)
		}
		if name == "idle at first" {
			select {
			case <-pinged:
			case <-s.Done():
				t.Fatalf("%s: it has ended with %v", name, s.Err())
			}
		}
		if err := use(s); err != nil {
			t.Fatal(err)
		}
		<-s.Done()
		if err := s.Err(); !errors.Is(err, errMayNotPublish) {
			t.Errorf("%s: it has ended with %v", name, err)
		}
		if name == "releases" && len(s.Unreleased()) != 2 {
			t.Errorf("unreleased: %v", s.Unreleased())
		}
	}
	if n := published.Load() + int64(len(released)); n > 0 {
		t.Errorf("%d packets were sent", n)
	}

	// At the only broker, where the next owner's session is the same one, a release and a message of QoS 2 are sent.
	s, err := newSink(t, Config{URL: broker.url}).Connect(ctx, driver.ConnectOptions{
		ClientID: "only broker", QoS: 2, Acks: func([]driver.Ack) {}, MayPublish: func() bool { return false },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Release([]driver.Slot{1}); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(messages("only broker", 2, 1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case <-released:
		case <-s.Done():
			t.Fatalf("it is not sent at the only broker: %v", s.Err())
		}
	}
	within(t, s.Close)
}

// TestGivenUpIsReset: what the system has not sent of a session that is given up it discards, so the broker sees
// a reset.
func TestGivenUpIsReset(t *testing.T) {
	t.Parallel()
	for name, why := range map[string]error{"the lease is in doubt": errMayNotPublish, "the broker is left": errBrokerLeft} {
		listener := listen(t)
		near, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		b := newSink(t, Config{URL: "mqtt://127.0.0.1:1"}).choice.brokers[0]
		s := b.newSession(near, bufio.NewReader(near), driver.ConnectOptions{Acks: func([]driver.Ack) {}}, terms{keepAlive: time.Minute}, b)
		s.end(why)
		<-s.Done()
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the broker sees %v", name, err)
		}
	}
}
