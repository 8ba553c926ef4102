package embedded

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func start(t *testing.T) (context.Context, *Broker, *mqttsink.Sink) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	broker, err := StartBroker(0, testkit.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	sink, err := mqttsink.New(mqttsink.Config{URL: broker.URL(), Logger: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return ctx, broker, sink
}

func connect(t *testing.T, ctx context.Context, sink *mqttsink.Sink, options driver.ConnectOptions) driver.Session {
	t.Helper()
	session, err := sink.Connect(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close(context.Background()) })
	return session
}

func TestCloseEndsTheBroker(t *testing.T) {
	ctx, broker, sink := start(t)
	address := strings.TrimPrefix(broker.URL(), "mqtt://")
	// Accepted, and not only dialled: mochi adds a connection to the WaitGroup for which its Close waits,
	// and doing both at once is a race in it.
	session := connect(t, ctx, sink, driver.ConnectOptions{ClientID: "here", Acks: func([]driver.Ack) {}})
	for range 2 {
		if err := broker.Close(); err != nil {
			t.Error(err)
		}
	}
	select {
	case <-session.Done():
	case <-ctx.Done():
		t.Error("the session is still there after Close")
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("the port still accepts connections after Close")
	}
}

// TestMessages: in every delivery mode the broker forwards the job ids, and it distinguishes two
// client ids.
func TestMessages(t *testing.T) {
	ctx, broker, sink := start(t)
	subscriber, err := check.Subscribe(ctx, check.SubscriberConfig{URL: broker.URL(), Filter: "x/#", QoS: 1, ClientID: "check", Logger: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer subscriber.Close()
	const each = 100
	all := []reactor.Delivery{reactor.ExactlyOnce, reactor.AtLeastOnce, reactor.AtMostOnce}
	for i, delivery := range all {
		if err := sink.CheckIdentity(ctx, "", delivery.QoS()); err != nil {
			t.Errorf("%v: %v", delivery, err)
		}
		acks := make(chan driver.Ack, each)
		session := connect(t, ctx, sink, driver.ConnectOptions{ClientID: delivery.String(), QoS: delivery.QoS(), Acks: func(got []driver.Ack) {
			for _, ack := range got {
				acks <- ack
			}
		}})
		messages := make([]driver.Message, each)
		for j := range messages {
			messages[j] = driver.Message{Slot: driver.Slot(j + 1), JobID: int64(i*each + j), Topic: "x/y", Payload: []byte("payload"), QoS: delivery.QoS()}
		}
		if err := session.Publish(messages); err != nil {
			t.Fatal(err)
		}
		var slots []driver.Slot
		for range messages {
			select {
			case ack := <-acks:
				slots = append(slots, ack.Slot)
			case <-ctx.Done():
				t.Fatalf("%v: %d of %d messages are acknowledged", delivery, len(slots), each)
			}
		}
		if delivery == reactor.ExactlyOnce {
			if err := session.Release(slots); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := subscriber.WaitDistinct(ctx, each*len(all)); err != nil {
		t.Fatal(err)
	}
}

// TestSessions: the broker keeps a session, with its mark, until it is discarded.
func TestSessions(t *testing.T) {
	ctx, _, sink := start(t)
	again := func(mark string) driver.Session {
		return connect(t, ctx, sink, driver.ConnectOptions{ClientID: "lane", QoS: 2, Mark: mark, Acks: func([]driver.Ack) {}})
	}
	leave := func(s driver.Session) {
		if err := s.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s := again("")
	if s.Limits().Present {
		t.Error("the broker has a session before the first connection")
	}
	if err := s.Mark(ctx, "ours"); err != nil {
		t.Fatal(err)
	}
	leave(s)
	for mark, want := range map[string]bool{"ours": true, "another's": false} {
		s = again(mark)
		if l := s.Limits(); !l.Present || l.Marked != want {
			t.Errorf("with the mark %q: present %t, marked %t", mark, l.Present, l.Marked)
		}
		leave(s)
	}
	// Discard disconnects first. The broker may remove the session a little later.
	for s = again("ours"); s.Limits().Present; s = again("ours") {
		if err := s.Discard(ctx); err != nil {
			t.Fatal("discard the session: ", err)
		}
	}
}

// TestPassesOn: this broker passes a QoS 2 message on when it is published, so nothing may be sent to it
// before its time.
func TestPassesOn(t *testing.T) {
	ctx, _, sink := start(t)
	session := connect(t, ctx, sink, driver.ConnectOptions{ClientID: "lane", QoS: 2, Acks: func([]driver.Ack) {}})
	passing, err := session.PassesOn(ctx)
	if err != nil || passing != driver.PassesOnAtPublish {
		t.Errorf("it passes on at %d, %v", passing, err)
	}
}
