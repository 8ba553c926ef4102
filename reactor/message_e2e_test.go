package reactor_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"github.com/job-publisher/reactor/reactor"
)

// reader is a subscriber that is not ours: it keeps whole messages, by the job's id.
type reader struct {
	mu       sync.Mutex
	messages map[int64][]*paho.Publish
}

func (w *world) reader() *reader {
	w.t.Helper()
	r := &reader{messages: map[int64][]*paho.Publish{}}
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.brokerURL, "mqtt://"))
	if err != nil {
		w.t.Fatal(err)
	}
	client := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
		func(m paho.PublishReceived) (bool, error) {
			id, _ := strconv.ParseInt(m.Packet.Properties.User.Get("job-id"), 10, 64)
			r.mu.Lock()
			r.messages[id] = append(r.messages[id], m.Packet)
			r.mu.Unlock()
			return true, nil
		},
	}})
	if _, err := client.Connect(w.ctx, &paho.Connect{ClientID: "reader-" + strings.ReplaceAll(w.prefix, "/", "-"), CleanStart: true, KeepAlive: 30}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = client.Disconnect(&paho.Disconnect{}) })
	if _, err := client.Subscribe(w.ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: w.prefix + "/#", QoS: 2, RetainAsPublished: true}}}); err != nil {
		w.t.Fatal(err)
	}
	return r
}

// one waits for the message of a job, and returns it.
func (r *reader) one(ctx context.Context, t *testing.T, id int64) *paho.Publish {
	t.Helper()
	for tick := time.NewTicker(time.Millisecond); ; {
		r.mu.Lock()
		got := r.messages[id]
		r.mu.Unlock()
		if len(got) > 1 {
			t.Fatalf("job %d arrived %d times", id, len(got))
		}
		if len(got) == 1 {
			return got[0]
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("job %d has not arrived", id)
		}
	}
}

// TestMessages: what the columns say is what a subscriber gets, in each delivery mode.
func TestMessages(t *testing.T) {
	t.Parallel()
	for _, delivery := range []reactor.Delivery{reactor.ExactlyOnce, reactor.AtLeastOnce, reactor.AtMostOnce} {
		t.Run(delivery.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", "")
			subscriber := w.reader()
			w.start(reactor.Config{Delivery: delivery})
			var large int64
			ids := map[string]int64{}
			insert := func(name, columns, values string) {
				t.Helper()
				var id int64
				if err := w.db.QueryRow(w.ctx, fmt.Sprintf("INSERT INTO jobs (topic, fire_at, %s) VALUES ($1, clock_timestamp() + interval '50 ms', %s) RETURNING id", columns, values), w.prefix+"/"+name).Scan(&id); err != nil {
					t.Fatal(err)
				}
				ids[name] = id
			}
			insert("plain", "payload", "'text'")
			insert("binary", "payload_bytes", `'\x00ff80'`)
			insert("empty", "payload_bytes", `''`)
			insert("large", "payload_bytes", `decode(repeat('00ff', 200000), 'hex')`)
			insert("retained", "payload, retain", "'kept', true")
			insert("all", "payload, content_type, response_topic, correlation_data, headers, expires_at",
				`'{}', 'application/json', 'answers/here', '\x0102', '{"traceparent": "00-abc-def-01", "ü": "ö", "a": ""}', clock_timestamp() + interval '1 hour'`)
			for qos := range 3 {
				insert(fmt.Sprint("qos", qos), "qos", fmt.Sprint(qos))
			}
			large = ids["large"]

			plain := subscriber.one(w.ctx, t, ids["plain"])
			if string(plain.Payload) != "text" || plain.Retain || plain.QoS != delivery.QoS() || plain.Properties.MessageExpiry != nil ||
				plain.Properties.ContentType != "" || plain.Properties.ResponseTopic != "" || plain.Properties.CorrelationData != nil || len(plain.Properties.User) != 1 {
				t.Errorf("plain: %v, %+v", plain, plain.Properties)
			}
			if got := subscriber.one(w.ctx, t, ids["binary"]).Payload; string(got) != "\x00\xff\x80" {
				t.Errorf("binary: %x", got)
			}
			if got := subscriber.one(w.ctx, t, ids["empty"]).Payload; len(got) != 0 {
				t.Errorf("empty: %x", got)
			}
			if got := subscriber.one(w.ctx, t, large).Payload; string(got) != strings.Repeat("\x00\xff", 200000) {
				t.Errorf("large: %d bytes", len(got))
			}
			if got := subscriber.one(w.ctx, t, ids["retained"]); !got.Retain {
				t.Errorf("retained: %v", got)
			}
			all := subscriber.one(w.ctx, t, ids["all"]).Properties
			if all.ContentType != "application/json" || all.ResponseTopic != "answers/here" || string(all.CorrelationData) != "\x01\x02" ||
				all.User.Get("traceparent") != "00-abc-def-01" || all.User.Get("ü") != "ö" || len(all.User) != 4 {
				t.Errorf("all: %+v", all)
			}
			if all.MessageExpiry == nil || *all.MessageExpiry < 3000 || *all.MessageExpiry > 3600 {
				t.Errorf("expiry: %v", all.MessageExpiry)
			}
			for qos := range byte(3) {
				if got := subscriber.one(w.ctx, t, ids[fmt.Sprint("qos", qos)]).QoS; got != min(qos, delivery.QoS()) {
					t.Errorf("qos %d arrived with %d", qos, got)
				}
			}
			w.settled()
		})
	}
}

// TestMixedQoS: jobs of all QoS at one instant, with other columns or none. Each arrives once, with its own.
func TestMixedQoS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	subscriber := w.reader()
	w.start(reactor.Config{})
	rows, err := w.db.Query(w.ctx, `
		INSERT INTO jobs (topic, payload, fire_at, qos, headers)
		SELECT $1 || '/' || n % 7, n, now() + interval '300 ms', nullif(n % 4, 3), CASE WHEN n % 5 = 0 THEN '{"a": "b"}'::jsonb END
		  FROM generate_series(1, 2000) n RETURNING id`, w.prefix)
	if err != nil {
		t.Fatal(err)
	}
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		n := i + 1
		got := subscriber.one(w.ctx, t, id)
		want := byte(n % 4)
		if want == 3 {
			want = 2
		}
		if got.QoS != want || string(got.Payload) != strconv.Itoa(n) || (got.Properties.User.Get("a") == "b") != (n%5 == 0) {
			t.Fatalf("job %d: %v, %+v", n, got, got.Properties)
		}
	}
	w.judge()
}

// TestTooLate: what is later than the deployment allows is recorded as missed, and not published;
// what has expired, as expired.
func TestTooLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.exec(`INSERT INTO jobs (topic, fire_at, expires_at) SELECT $1 || '/x', now() + at, now() + expires FROM (VALUES
		(interval '-2 hours', null), ('-61 minutes', null), ('-59 minutes', null), ('-1 minute', interval '-1 second'), ('-1 minute', '1 hour')) AS v (at, expires)`, w.prefix)
	in := w.start(reactor.Config{MaxLateness: time.Hour})
	w.eventually("all have ended", "SELECT count(*) = 5 FROM jobs WHERE processed AND NOT EXISTS (SELECT FROM reactor.in_flight)")
	if err := w.subscriber.WaitDistinct(w.ctx, 2); err != nil {
		t.Fatal(err)
	}
	var states []string
	if err := w.db.QueryRow(w.ctx, "SELECT array_agg(state ORDER BY job_id) FROM reactor.failed_jobs").Scan(&states); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(states, []string{"missed", "missed", "expired"}) {
		t.Errorf("states %v", states)
	}
	if s := in.Stats(); s.Failed != 3 || s.Missed != 2 || s.Expired != 1 {
		t.Errorf("%d failed, %d missed, %d expired", s.Failed, s.Missed, s.Expired)
	}
	var got []int64
	for _, m := range w.subscriber.Received() {
		got = append(got, m.ID)
	}
	if slices.Sort(got); !slices.Equal(got, []int64{3, 5}) {
		t.Errorf("published %v", got)
	}
}

// TestCatchUpRate: a backlog is published no faster than at its rate, and what falls due meanwhile does
// not wait for it.
func TestCatchUpRate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	const backlog, rate, fresh = 1000, 500, 20
	w.exec("INSERT INTO jobs (topic, fire_at) SELECT $1 || '/old', now() - interval '30 days' + n * interval '1 minute' FROM generate_series(1, $2::int) n", w.prefix, backlog)
	w.start(reactor.Config{CatchUpRate: rate})
	if err := w.subscriber.WaitDistinct(w.ctx, 1); err != nil {
		t.Fatal(err)
	}
	w.exec("INSERT INTO jobs (topic, fire_at) SELECT $1 || '/new', clock_timestamp() + n * interval '20 ms' FROM generate_series(1, $2::int) n", w.prefix, fresh)
	w.judge()
	var first, last time.Time
	var lastNew time.Time
	for _, m := range w.subscriber.Received() {
		if strings.HasSuffix(m.Topic, "/new") {
			lastNew = m.At
			continue
		}
		if first.IsZero() {
			first = m.At
		}
		last = m.At
	}
	// The bucket holds a tenth of a second's jobs at the start.
	if took, least := last.Sub(first), time.Second*(backlog-rate/10-1)/rate; took < least-10*time.Millisecond {
		t.Errorf("%d jobs in %v, want %v or more", backlog, took, least)
	}
	if !lastNew.Before(last) {
		t.Error("what fell due meanwhile has waited for the backlog")
	}
}
