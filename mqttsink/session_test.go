package mqttsink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

func subscribe(t *testing.T, ctx context.Context, url, prefix string, qos byte) *check.Subscriber {
	t.Helper()
	sub, err := check.Subscribe(ctx, check.SubscriberConfig{
		URL: url, Filter: prefix + "/#", QoS: qos, ClientID: "subscriber-" + strings.ReplaceAll(prefix, "/", "-"), Logger: testkit.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sub.Close() })
	return sub
}

func TestPublish(t *testing.T) {
	for _, qos := range []byte{1, 0} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			broker, prefix := testkit.Broker(t).URL(), testkit.TopicPrefix(t)
			sub := subscribe(t, ctx, broker, prefix, 1)
			session, acks := open(t, ctx, newSink(t, Config{URL: broker}), t.Name(), qos)
			msgs := messages(prefix+"/x", qos, 5000)
			for i, ack := range publishAll(t, ctx, session, acks, msgs) {
				if ack.Slot != msgs[i].Slot || ack.Refused() {
					t.Fatalf("acknowledgement %d is %+v", i, ack)
				}
			}
			if err := sub.WaitDistinct(ctx, len(msgs)); err != nil {
				t.Fatal(err)
			}
			if n := len(sub.Received()); n != len(msgs) {
				t.Errorf("received %d messages", n)
			}
		})
	}
}

func TestOddPayloads(t *testing.T) {
	ctx := testContext(t)
	broker, prefix := testkit.Broker(t).URL(), testkit.TopicPrefix(t)
	sub := subscribe(t, ctx, broker, prefix, 1)
	session, acks := open(t, ctx, newSink(t, Config{URL: broker}), t.Name(), 1)
	payloads := [][]byte{nil, {0}, {0xff, 0xfe}, []byte("日本 ü"), bytes.Repeat([]byte("x"), 127), bytes.Repeat([]byte("y"), 16384), bytes.Repeat([]byte("z"), 3<<20)}
	var msgs []driver.Message
	for i, p := range payloads {
		msgs = append(msgs, driver.Message{Slot: driver.Slot(i + 1), JobID: 1<<62 + int64(i), Topic: prefix + "/ü/日本", Payload: p, QoS: 1})
	}
	publishAll(t, ctx, session, acks, msgs)
	if err := sub.WaitDistinct(ctx, len(msgs)); err != nil {
		t.Fatal(err)
	}
	for i, r := range sub.Received() {
		if r.ID != msgs[i].JobID || !bytes.Equal(r.Payload, payloads[i]) || r.Topic != msgs[i].Topic {
			t.Errorf("message %d arrived as job %d on %s with %d bytes", i, r.ID, r.Topic, len(r.Payload))
		}
	}
}

// TestCloseFlushes: all messages accepted before Close reach the broker.
func TestCloseFlushes(t *testing.T) {
	ctx := testContext(t)
	broker, prefix := testkit.Broker(t).URL(), testkit.TopicPrefix(t)
	sub := subscribe(t, ctx, broker, prefix, 1)
	session, _ := open(t, ctx, newSink(t, Config{URL: broker}), t.Name(), 0)
	msgs := messages(prefix+"/x", 0, 400)
	if err := session.Publish(msgs); err != nil {
		t.Fatal(err)
	}
	if err := session.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := session.Close(ctx); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if err := session.Publish(msgs[:1]); err == nil {
		t.Error("a closed session accepts messages")
	}
	if err := sub.WaitDistinct(ctx, len(msgs)); err != nil {
		t.Fatal(err)
	}
}

// TestTakeover: the broker closes the older connection of a client id. Mosquitto
// 2.0.11 does so without the DISCONNECT that would say why.
func TestTakeover(t *testing.T) {
	ctx := testContext(t)
	sink := newSink(t, Config{URL: testkit.Broker(t).URL()})
	prefix := testkit.TopicPrefix(t)
	first, _ := open(t, ctx, sink, prefix, 1)
	if first.Limits().Resumed {
		t.Error("a new session is said to be resumed")
	}
	second, acks := open(t, ctx, sink, prefix, 1)
	<-first.Done()
	if !second.Limits().Resumed {
		t.Error("the second session is not resumed")
	}
	publishAll(t, ctx, second, acks, messages(prefix+"/x", 1, 1))
}

func TestBrokerGoesAway(t *testing.T) {
	ctx := testContext(t)
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	session, _ := open(t, ctx, newSink(t, Config{URL: broker.URL()}), t.Name(), 1)
	if err := broker.Kill(); err != nil {
		t.Fatal(err)
	}
	<-session.Done()
	if session.Err() == nil {
		t.Error("the session ended without a reason")
	}
}

// TestSilentBroker: a connection that is open and dead is noticed because nothing arrives.
func TestSilentBroker(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	proxy := testkit.NewProxy(t, testkit.Broker(t).URL())
	sink := newSink(t, Config{URL: proxy.Through(testkit.Broker(t).URL()), KeepAlive: time.Second})
	session, _ := open(t, ctx, sink, t.Name(), 1)
	proxy.Drop(netfault.ToClient)
	<-session.Done()
	if err := session.Err(); err == nil || !strings.Contains(err.Error(), "silent") {
		t.Errorf("the session ended with %v", err)
	}
}

// TestStalledBroker: the session ends if the broker does not read and all buffers are full.
func TestStalledBroker(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	proxy := testkit.NewProxy(t, testkit.Broker(t).URL())
	sink := newSink(t, Config{URL: proxy.Through(testkit.Broker(t).URL()), WriteTimeout: 200 * time.Millisecond})
	session, _ := open(t, ctx, sink, t.Name(), 1)
	proxy.Stall(netfault.ToServer)
	big := driver.Message{Slot: 1, Topic: "x", Payload: make([]byte, 1<<20), QoS: 1}
	for session.Publish([]driver.Message{big}) == nil && ctx.Err() == nil {
		big.Slot++
		if big.Slot == 64 {
			break
		}
	}
	select {
	case <-session.Done():
	case <-ctx.Done():
		t.Fatal("the session still waits for a broker that does not read")
	}
}

func TestBrokersLimits(t *testing.T) {
	ctx := testContext(t)
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{MaxInflight: 20, ExtraLines: []string{"max_packet_size 1000"}})
	session, acks := open(t, ctx, newSink(t, Config{URL: broker.URL()}), t.Name(), 1)
	limits := session.Limits()
	if limits.InFlight != 20 || limits.PacketBytes != 1000 {
		t.Fatalf("limits are %+v", limits)
	}
	exact := driver.Message{Slot: 1, JobID: 1, Topic: "x", QoS: 1}
	exact.Payload = make([]byte, 1000-packetLength(exact)-1) // the length of the length grows by one
	if err := session.Check(exact); err != nil {
		t.Errorf("a packet of the allowed size: %v", err)
	}
	publishAll(t, ctx, session, acks, []driver.Message{exact})
	exact.Payload = append(exact.Payload, 0)
	if err := session.Check(exact); err == nil {
		t.Error("a packet of one byte too many is allowed")
	}
}

// TestCheckHeaders: the sink refuses exactly what the table does (sql/schema.sql), because a row may be
// older than the table's rule.
func TestCheckHeaders(t *testing.T) {
	check := func(name, value string) error {
		return new(session).checkProperties(&driver.Properties{User: []driver.UserProperty{{Name: name, Value: value}}})
	}
	var bad []string
	for c := rune(1); c <= 0x9F; c++ {
		if c < 0x20 || c >= 0x7F {
			bad = append(bad, string(c))
		}
	}
	for _, c := range "\uFDD0\uFDEF\uFFFE\uFFFF\U0001FFFE\U0001FFFF\U0009FFFE\U000AFFFF\U000FFFFE\U0010FFFF" {
		bad = append(bad, string(c))
	}
	for _, text := range bad {
		if check("a"+text, "b") == nil || check("a", "b"+text+"c") == nil {
			t.Errorf("%q is allowed", text)
		}
	}
	if check("job-id", "1") == nil {
		t.Error("a second job-id is allowed")
	}
	for _, text := range []string{"", `\u0012`, `\\u0012`, `\n`, `\`, `"`, " ~\u00a0", "ü€😀", "\uFDCF\uFDF0\uFFFD", "\U0001FFFD\U00020000", "Job-Id", "job-id is a value"} {
		if err := errors.Join(check("a"+text, "b"), check("a", text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestCheckTopic(t *testing.T) {
	for _, good := range []string{"a", "/", "a/b", "$SYS/x", "ü/日本", " ", strings.Repeat("x", 65535)} {
		if err := checkTopic(good); err != nil {
			t.Errorf("%.20q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "+", "a/#", "a\x00", "a\x1f", "a\x7f", "a\u0085", "\xff", "\uffff", "\ufdd0", "\U0001fffe", strings.Repeat("x", 65536)} {
		if err := checkTopic(bad); err == nil {
			t.Errorf("%.20q is allowed", bad)
		}
	}
}
