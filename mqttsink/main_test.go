package mqttsink

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// collector receives acknowledgements.
type collector struct {
	mu   sync.Mutex
	acks []driver.Ack
	news chan struct{}
}

func newCollector() *collector { return &collector{news: make(chan struct{}, 1)} }

func (c *collector) take(acks []driver.Ack) {
	c.mu.Lock()
	c.acks = append(c.acks, acks...)
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// wait returns the acknowledgements when there are n.
func (c *collector) wait(t testing.TB, ctx context.Context, n int) []driver.Ack {
	t.Helper()
	for {
		c.mu.Lock()
		acks := append([]driver.Ack(nil), c.acks...)
		c.mu.Unlock()
		if len(acks) >= n {
			return acks
		}
		select {
		case <-c.news:
		case <-ctx.Done():
			t.Fatalf("%d of %d acknowledgements arrived", len(acks), n)
		}
	}
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newSink(t testing.TB, cfg Config) *Sink {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open connects and closes at the end of the test.
func open(t testing.TB, ctx context.Context, s *Sink, clientID string, qos byte) (driver.Session, *collector) {
	t.Helper()
	c := newCollector()
	session, err := s.Connect(ctx, driver.ConnectOptions{ClientID: clientID, QoS: qos, Acks: c.take})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = session.Close(ctx)
	})
	return session, c
}

// publishAll keeps to the session's limit, as the contract asks.
func publishAll(t testing.TB, ctx context.Context, s driver.Session, c *collector, msgs []driver.Message) []driver.Ack {
	t.Helper()
	limit := s.Limits().InFlight
	sent := 0
	for sent < len(msgs) {
		n := min(limit, len(msgs)-sent)
		if err := s.Publish(msgs[sent : sent+n]); err != nil {
			t.Fatal(err)
		}
		sent += n
		c.wait(t, ctx, sent)
	}
	return c.wait(t, ctx, len(msgs))
}

func messages(topic string, qos byte, n int) []driver.Message {
	msgs := make([]driver.Message, n)
	for i := range msgs {
		msgs[i] = driver.Message{
			Slot: driver.Slot(i%driver.LaneSlots + 1), JobID: int64(i + 1), Topic: topic, Payload: []byte("payload"), QoS: qos,
		}
	}
	return msgs
}
