package mqttsink

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// The QoS 2 exchange with a real broker. The lane decides when to release; here the tests do.

func slotsOf(msgs []driver.Message) []driver.Slot {
	slots := make([]driver.Slot, len(msgs))
	for i, m := range msgs {
		slots[i] = m.Slot
	}
	return slots
}

func TestExchange(t *testing.T) {
	ctx := testContext(t)
	broker, prefix := testkit.Broker(t).URL(), testkit.TopicPrefix(t)
	sub := subscribe(t, ctx, broker, prefix, 2)
	session, acks := open(t, ctx, newSink(t, Config{URL: broker}), prefix, 2)
	msgs := messages(prefix+"/x", 2, min(100, session.Limits().InFlight))
	if err := session.Publish(msgs); err != nil {
		t.Fatal(err)
	}
	for i, ack := range acks.wait(t, ctx, len(msgs)) {
		if ack.Slot != msgs[i].Slot || ack.Step != driver.Received || ack.Refused() {
			t.Fatalf("acknowledgement %d is %+v, want received", i, ack)
		}
	}
	if got := sub.Received(); len(got) > 0 {
		t.Fatalf("mosquitto handed on %d messages that were not released", len(got))
	}
	if err := session.Release(slotsOf(msgs)); err != nil {
		t.Fatal(err)
	}
	for i, ack := range acks.wait(t, ctx, 2*len(msgs))[len(msgs):] {
		if ack.Slot != msgs[i].Slot || ack.Step != driver.Released {
			t.Fatalf("acknowledgement %d is %+v, want released", i, ack)
		}
	}
	// A release of a slot that the broker does not know is answered as well: recovery depends on
	// it.
	if err := session.Release([]driver.Slot{4096}); err != nil {
		t.Fatal(err)
	}
	if last := acks.wait(t, ctx, 2*len(msgs)+1)[2*len(msgs)]; last.Slot != 4096 || last.Step != driver.Released {
		t.Fatalf("releasing an unknown slot: %+v", last)
	}
	if err := sub.WaitDistinct(ctx, len(msgs)); err != nil {
		t.Fatal(err)
	}
}

// TestExchangeResumes: the connection is lost at each step. When the exchange goes on over the next
// connection, as a lane does it, each message is delivered once.
func TestExchangeResumes(t *testing.T) {
	ctx := testContext(t)
	broker, prefix := testkit.Broker(t).URL(), testkit.TopicPrefix(t)
	proxy := testkit.NewProxy(t, broker)
	sub := subscribe(t, ctx, broker, prefix, 2)
	sink := newSink(t, Config{URL: proxy.Through(broker)})

	session, acks := open(t, ctx, sink, prefix, 2)
	msgs := messages(prefix+"/x", 2, 9)
	sent, received, released := msgs[:3], msgs[3:6], msgs[6:]
	if err := session.Publish(append(slices.Clone(received), released...)); err != nil {
		t.Fatal(err)
	}
	acks.wait(t, ctx, 6)
	if err := session.Release(slotsOf(released)); err != nil {
		t.Fatal(err)
	}
	acks.wait(t, ctx, 9)
	proxy.Drop(netfault.ToClient)
	_ = session.Publish(sent)
	proxy.Reset()
	<-session.Done()
	proxy.Resume()

	session, acks = open(t, ctx, sink, prefix, 2)
	if !session.Limits().Resumed {
		t.Fatal("the broker forgot the session")
	}
	again := append(slices.Clone(sent), received...)
	for i := range again {
		again[i].Dup = true
	}
	if err := session.Publish(again); err != nil {
		t.Fatal(err)
	}
	acks.wait(t, ctx, len(again))
	if err := session.Release(slotsOf(msgs)); err != nil {
		t.Fatal(err)
	}
	acks.wait(t, ctx, len(again)+len(msgs))
	// Publish another message last: a repetition would have arrived before it.
	last := messages(prefix+"/last", 2, 1)
	last[0].JobID = 1000
	if err := session.Publish(last); err != nil {
		t.Fatal(err)
	}
	acks.wait(t, ctx, len(again)+len(msgs)+1)
	if err := session.Release(slotsOf(last)); err != nil {
		t.Fatal(err)
	}
	if err := sub.WaitDistinct(ctx, len(msgs)+1); err != nil {
		t.Fatal(err)
	}
	if n := len(sub.Received()); n != len(msgs)+1 {
		t.Errorf("%d messages arrived, want %d", n, len(msgs)+1)
	}
}

func TestBrokerWithoutQoS2(t *testing.T) {
	ctx := testContext(t)
	one := byte(1)
	sink := newSink(t, Config{URL: scripted(t, connack(t, 0, &packets.Properties{MaximumQOS: &one}))})
	_, err := sink.Connect(ctx, driver.ConnectOptions{ClientID: "x", QoS: 2})
	var refused *driver.ConnectRefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "Config.Delivery to AtLeastOnce") {
		t.Errorf("connecting yields %v, want a refusal that names the flag", err)
	}
}

func TestBrokerThatRenamesUs(t *testing.T) {
	ctx := testContext(t)
	sink := newSink(t, Config{URL: scripted(t, connack(t, 0, &packets.Properties{AssignedClientID: "other"}))})
	_, err := sink.Connect(ctx, driver.ConnectOptions{ClientID: "x", QoS: 2})
	var refused *driver.ConnectRefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("connecting yields %v, want a refusal", err)
	}
}
