package mqttsink

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestLargePayloadsCostNoMemory: a large payload is written without a copy.
func TestLargePayloadsCostNoMemory(t *testing.T) {
	ctx := testContext(t)
	sink := newSink(t, Config{URL: scripted(t, connack(t, 0, nil))})
	session, acks := open(t, ctx, sink, "x", 0)
	payload := make([]byte, 64<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := session.Publish([]driver.Message{{Slot: 1, JobID: 1, Topic: "x", Payload: payload}}); err != nil {
		t.Fatal(err)
	}
	acks.wait(t, ctx, 1)
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<20 {
		t.Errorf("a message of %d bytes costs %d more", len(payload), allocated)
	}
}

// TestLargeAmongSmall: payloads of sizes around largeBytes arrive whole and in order, in every
// mixture with others.
func TestLargeAmongSmall(t *testing.T) {
	ctx := testContext(t)
	broker, prefix := testkit.Broker(t).URL(), testkit.TopicPrefix(t)
	sub := subscribe(t, ctx, broker, prefix, 1)
	session, acks := open(t, ctx, newSink(t, Config{URL: broker}), prefix, 1)
	sizes := []int{0, largeBytes - 1, largeBytes, 1, largeBytes + 1, largeBytes, 2, 3, writeChunk, writeChunk + 1, 4, 5 * writeChunk}
	var msgs []driver.Message
	for range 5 {
		for _, size := range sizes {
			i := len(msgs) + 1
			msgs = append(msgs, driver.Message{
				Slot: driver.Slot(i), JobID: int64(i), Topic: prefix + "/x", QoS: 1, Payload: bytes.Repeat([]byte{byte(i)}, size),
			})
		}
	}
	publishAll(t, ctx, session, acks, msgs)
	if err := sub.WaitDistinct(ctx, len(msgs)); err != nil {
		t.Fatal(err)
	}
	for i, got := range sub.Received() {
		if got.ID != msgs[i].JobID || !bytes.Equal(got.Payload, msgs[i].Payload) {
			t.Errorf("message %d arrived as job %d, with %d bytes", i, got.ID, len(got.Payload))
		}
	}
}
