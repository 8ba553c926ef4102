package check_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func subscribe(t testing.TB, cfg check.SubscriberConfig) *check.Subscriber {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = testkit.Logger(t)
	}
	s, err := check.Subscribe(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// publisher returns a function that publishes a message and waits for its acknowledgement.
func publisher(t testing.TB, broker string) func(topic, jobID string, qos byte, payload string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(broker, "mqtt://"))
	if err != nil {
		t.Fatal(err)
	}
	client := paho.NewClient(paho.ClientConfig{Conn: conn})
	ctx := testContext(t)
	if _, err := client.Connect(ctx, &paho.Connect{ClientID: testkit.TopicPrefix(t), CleanStart: true, KeepAlive: 60}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Disconnect(&paho.Disconnect{}) })
	return func(topic, jobID string, qos byte, payload string) {
		t.Helper()
		m := &paho.Publish{Topic: topic, QoS: qos, Payload: []byte(payload), Properties: &paho.PublishProperties{}}
		if jobID != "" {
			m.Properties.User.Add("trace", "x").Add("job-id", jobID)
		}
		if _, err := client.Publish(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSubscriberRecords(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	broker := testkit.Broker(t).URL()
	publish := publisher(t, broker)
	for qos := range byte(3) {
		prefix := testkit.TopicPrefix(t)
		s := subscribe(t, check.SubscriberConfig{URL: broker, Filter: prefix + "/#", QoS: qos})
		before := time.Now()
		publish(prefix+"/a", "42", qos, "payload")
		publish(prefix+"/b", "9223372036854775807", qos, "")
		publish(prefix+"/a", "42", qos, "again")
		publish(prefix+"/c", "", qos, "no id")
		publish(prefix+"/c", "x1", qos, "no number")
		if err := s.WaitMessages(ctx, 5); err != nil {
			t.Fatal(err)
		}
		after := time.Now()
		if err := s.WaitDistinct(ctx, 2); err != nil {
			t.Fatal(err)
		}
		want := []check.Received{
			{ID: 42, Topic: prefix + "/a", Payload: []byte("payload")},
			{ID: 9223372036854775807, Topic: prefix + "/b", Payload: []byte("")},
			{ID: 42, Topic: prefix + "/a", Payload: []byte("again")},
			{ID: check.NoID, Topic: prefix + "/c", Payload: []byte("no id")},
			{ID: check.NoID, Topic: prefix + "/c", Payload: []byte("no number")},
		}
		for i, m := range s.Received() {
			if m.ID != want[i].ID || m.Topic != want[i].Topic || string(m.Payload) != string(want[i].Payload) || m.QoS != qos || m.Dup || m.Retain {
				t.Errorf("QoS %d, message %d: %+v, want %+v", qos, i, m, want[i])
			}
			if m.At.Before(before.Round(0)) || m.At.After(after.Round(0)) {
				t.Errorf("QoS %d, message %d: arrived at %s, sent between %s and %s", qos, i, m.At, before, after)
			}
		}
		if p := s.Progress(); p != (check.Progress{Messages: 5, Distinct: 2, Connected: true}) {
			t.Errorf("QoS %d: progress %+v", qos, p)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		s.Close()
		if s.Progress().Connected {
			t.Error("connected after Close")
		}
	}
}

func TestSubscriberWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := subscribe(t, check.SubscriberConfig{URL: testkit.Broker(t).URL(), Filter: testkit.TopicPrefix(t) + "/#"})
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if err := s.WaitDistinct(ctx, 1); err == nil || !strings.Contains(err.Error(), "wait for 1, have 0") {
		t.Errorf("error %v", err)
	}
}

// At QoS 2 each message arrives once, however often and at whichever byte the connection
// breaks, also if it is published while there is no connection.
func TestSubscriberAtQoS2RecordsEachMessageOnceOverBrokenConnections(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	broker := testkit.Broker(t).URL()
	prefix := testkit.TopicPrefix(t)
	proxy := testkit.NewProxy(t, broker)
	s := subscribe(t, check.SubscriberConfig{URL: proxy.Through(broker), Filter: prefix + "/#", QoS: 2})
	publish := publisher(t, broker)
	const rounds, each = 30, 20
	var jobs []check.Expected
	for round := range rounds {
		for !s.Progress().Connected && ctx.Err() == nil { // or this round would cut nothing
			runtime.Gosched()
		}
		if round%2 == 0 {
			proxy.CutAfterBytes(netfault.ToServer, int64(5+7*round)) // between its PUBRECs and PUBCOMPs
		} else {
			proxy.CutAfterBytes(netfault.ToClient, int64(20+61*round)) // between PUBLISHes and PUBRELs
		}
		for range each {
			id := int64(len(jobs) + 1)
			jobs = append(jobs, check.Expected{ID: id})
			publish(prefix+"/x", strconv.FormatInt(id, 10), 2, "p")
		}
		if round%10 == 9 {
			proxy.Reset()
		}
	}
	if err := s.WaitDistinct(ctx, len(jobs)); err != nil {
		t.Fatal(err)
	}
	p := s.Progress()
	if p.Reconnects < rounds/2 || p.SessionsLost != 0 {
		t.Errorf("too few reconnects, or a session was lost: %+v", p)
	}
	// This message comes last, after all others and their repetitions.
	jobs = append(jobs, check.Expected{ID: 1 << 40})
	publish(prefix+"/x", strconv.Itoa(1<<40), 2, "p")
	if err := s.WaitDistinct(ctx, len(jobs)); err != nil {
		t.Fatal(err)
	}
	if err := check.Compare(jobs, s.Received(), check.Config{}).Err(); err != nil {
		t.Error(err)
	}
}

func TestSubscriberSurvivesABrokerRestart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		persistence bool
		lost        int
	}{{true, 0}, {false, 1}} {
		t.Run(fmt.Sprintf("persistence=%t", c.persistence), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{Persistence: c.persistence})
			s := subscribe(t, check.SubscriberConfig{URL: broker.URL(), Filter: "t/#", QoS: 2})
			publisher(t, broker.URL())("t/1", "1", 2, "")
			if err := s.WaitDistinct(ctx, 1); err != nil {
				t.Fatal(err)
			}
			if err := broker.Restart(ctx); err != nil {
				t.Fatal(err)
			}
			again := publisher(t, broker.URL())
			if c.persistence { // the broker keeps it for us, even if we are not connected
				again("t/2", "2", 2, "")
			} else {
				for id := 2; s.Progress().Distinct < 2; id++ { // one arrives after the new subscription
					again("t/x", strconv.Itoa(id), 2, "")
					if ctx.Err() != nil {
						t.Fatal("no message arrived after the restart")
					}
				}
			}
			if err := s.WaitDistinct(ctx, 2); err != nil {
				t.Fatal(err)
			}
			// A message may arrive before the subscriber has read that it is subscribed.
			for s.Progress().Reconnects == 0 && ctx.Err() == nil {
				runtime.Gosched()
			}
			if p := s.Progress(); p.Reconnects != 1 || p.SessionsLost != c.lost {
				t.Errorf("progress %+v, want %d lost sessions", p, c.lost)
			}
		})
	}
}

// TestSubscribeRenewsTheSubscriptionOfAnExistingSession: the client id has a session
// without a subscription, as if the broker had read the UNSUBSCRIBE of an earlier
// subscriber, but not its DISCONNECT.
func TestSubscribeRenewsTheSubscriptionOfAnExistingSession(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	broker := testkit.Broker(t).URL()
	prefix := testkit.TopicPrefix(t)
	id := "check-" + strings.ReplaceAll(prefix, "/", "-")
	conn, err := net.Dial("tcp", strings.TrimPrefix(broker, "mqtt://"))
	if err != nil {
		t.Fatal(err)
	}
	earlier := paho.NewClient(paho.ClientConfig{Conn: conn})
	expiry := uint32(60)
	if _, err := earlier.Connect(ctx, &paho.Connect{ClientID: id, KeepAlive: 60, Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry}}); err != nil {
		t.Fatal(err)
	}
	if err := earlier.Disconnect(&paho.Disconnect{}); err != nil {
		t.Fatal(err)
	}

	s := subscribe(t, check.SubscriberConfig{URL: broker, Filter: prefix + "/#", QoS: 2, ClientID: id})
	publisher(t, broker)(prefix+"/a", "1", 2, "")
	if err := s.WaitFor(ctx, 1); err != nil {
		t.Fatal(err)
	}
}

func TestSubscribeErrors(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	closed := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	guarded := testkit.OwnMosquitto(t, stack.MosquittoConfig{Username: "u", Password: "secret"})
	url := testkit.Broker(t).URL()
	for name, cfg := range map[string]check.SubscriberConfig{
		"no broker":    {URL: closed.URL(), Filter: "#"},
		"no password":  {URL: strings.Replace(guarded.URL(), "u:secret@", "", 1), Filter: "#"},
		"no filter":    {URL: url},
		"wrong filter": {URL: url, Filter: "a/#/b"},
		"wrong scheme": {URL: "http://localhost", Filter: "#"},
		"wrong QoS":    {URL: url, Filter: "#", QoS: 3},
		"wrong URL":    {URL: "mqtt://u:secret@:::", Filter: "#"},
	} {
		s, err := check.Subscribe(ctx, cfg)
		if err == nil {
			s.Close()
			t.Errorf("%s: subscribed", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error contains the password: %v", name, err)
		}
	}
	subscribe(t, check.SubscriberConfig{URL: guarded.URL(), Filter: "#"})
}

func TestExpectedFromDB(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, testkit.NewDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `
		CREATE TABLE jobs (id bigint PRIMARY KEY, topic text NOT NULL, payload text, fire_at timestamptz NOT NULL);
		INSERT INTO jobs VALUES (1, 'a', 'one', '2030-01-01 12:00:00.000001Z'), (2, 'b', NULL, 'epoch'), (3, 'c', '', 'epoch')`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := check.ExpectedFromDB(ctx, conn, "id < 3")
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	one := got[0]
	if one.ID != 1 || one.Topic != "a" || string(one.Payload) != "one" || !one.FireAt.Equal(noon.Add(time.Microsecond)) {
		t.Errorf("job 1: %+v", one)
	}
	if got[1].Payload == nil || len(got[1].Payload) != 0 {
		t.Errorf("job 2: payload %q, want an empty one", got[1].Payload)
	}
	if all, err := check.ExpectedFromDB(ctx, conn, ""); err != nil || len(all) != 3 {
		t.Errorf("all: %+v, %v", all, err)
	}
	if _, err := check.ExpectedFromDB(ctx, conn, "nonsense"); err == nil {
		t.Error("no error for a wrong condition")
	}
}
