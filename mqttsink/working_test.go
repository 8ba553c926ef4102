package mqttsink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// atMessages is a broker that works but for what it does with a message.
func atMessages(t *testing.T, answer func(p *packets.Publish) reply) *fakeBroker {
	t.Helper()
	return startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
		switch content := p.Content.(type) {
		case *packets.Publish:
			return answer(content)
		case *packets.Pubrel:
			return reply{packets: encode(&packets.Pubcomp{PacketID: content.PacketID, Properties: &packets.Properties{}})}
		}
		return new(subscriptions).answer(p)
	})
}

func pubrec(p *packets.Publish, code byte) reply {
	return reply{packets: encode(&packets.Pubrec{PacketID: p.PacketID, ReasonCode: code, Properties: &packets.Properties{}})}
}

// oneMessage publishes a message, and waits until it is answered or the session has ended.
func oneMessage(t *testing.T, ctx context.Context, s *Sink, clientID, topic string) driver.Session {
	t.Helper()
	acks := newCollector()
	session, err := s.Connect(ctx, driver.ConnectOptions{ClientID: clientID, QoS: 2, Acks: acks.take})
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Publish(messages(topic, 2, 1)); err == nil {
		select {
		case <-acks.news:
		case <-session.Done():
		case <-ctx.Done():
			t.Fatal("no answer")
		}
	}
	return session
}

// TestBrokerThatDoesNotWork: a broker that accepts connections and fails at everything else is left like
// one that accepts none, and not returned to.
func TestBrokerThatDoesNotWork(t *testing.T) {
	there := testkit.Broker(t).URL()
	for name, primary := range map[string]func(t *testing.T) *fakeBroker{
		"closes after CONNACK": func(t *testing.T) *fakeBroker {
			accept := connack(t, 0, nil)
			return startFakeBroker(t, func(int, *packets.ControlPacket) reply { return reply{packets: accept, closeNow: true} })
		},
		"closes at a message": func(t *testing.T) *fakeBroker {
			return atMessages(t, func(*packets.Publish) reply { return reply{closeNow: true} })
		},
		"disconnects at a message": func(t *testing.T) *fakeBroker {
			bye := encode(&packets.Disconnect{ReasonCode: 0x83, Properties: &packets.Properties{}})
			return atMessages(t, func(*packets.Publish) reply { return reply{packets: bye, closeNow: true} })
		},
		"answers nothing": func(t *testing.T) *fakeBroker {
			return startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
				if p.Type == packets.CONNECT {
					return reply{}
				}
				return reply{packets: []byte{}}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			sink := newSink(t, Config{
				URL: primary(t).url + "," + there, FailoverAfter: AtOnce,
				KeepAlive: time.Second, ConnectTimeout: 500 * time.Millisecond, Logger: testkit.Logger(t),
			})
			for try := 1; ; try++ {
				session := oneMessage(t, ctx, sink, testkit.TopicPrefix(t), "x")
				if session.Limits().Standby {
					for range answersToReturn {
						sink.choice.asked = time.Time{} // as if the pause were over
						if session.ShouldLeave(ctx) {
							t.Error("it is to return")
						}
					}
					within(t, session.Close)
					break
				}
				<-session.Done()
				if try == 3 {
					t.Fatal("the sessions stay at a broker that does not work")
				}
			}
		})
	}
}

// TestTroubleOfALane: a broker that ends the sessions of our lanes and works for others is not left: the
// cause is a message, or somebody who takes the sessions over.
func TestTroubleOfALane(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	var messages atomic.Int64
	broker := atMessages(t, func(p *packets.Publish) reply {
		if p.Topic == "poison" {
			return reply{closeNow: true}
		}
		messages.Add(1)
		return pubrec(p, codeNotAuthorized) // the probe's topic, which it does not know
	})
	sink := newSink(t, Config{URL: broker.url + ",mqtt://127.0.0.1:1", FailoverAfter: AtOnce, Logger: testkit.Logger(t)})
	for range 4 {
		session := oneMessage(t, ctx, sink, "x", "poison")
		if "mqtt://"+session.Limits().Broker != broker.url {
			t.Fatalf("it has moved to %s", session.Limits().Broker)
		}
		<-session.Done()
	}
	if n := messages.Load(); n < 2 {
		t.Errorf("it was asked %d times whether it works", n)
	}
}

// longAgo makes the doubt about the broker in use, if there is one, older, and its failures when it was asked.
func longAgo(s *Sink, d time.Duration) {
	s.choice.mu.Lock()
	defer s.choice.mu.Unlock()
	for _, since := range []*time.Time{&s.choice.fruitless, &s.choice.unfit} {
		if !since.IsZero() {
			*since = since.Add(-d)
		}
	}
	s.choice.probed = time.Time{}
}

// at is the broker of a session, by its URL.
func at(s driver.Session) string { return "mqtt://" + s.Limits().Broker }

// TestPatienceWithFruitlessSessions: a broker that does not work is left after FailoverAfter, and not while
// messages of another lane are answered there. Until it is known to work, no end counts against the message.
func TestPatienceWithFruitlessSessions(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	var works atomic.Bool
	bye := encode(&packets.Disconnect{ReasonCode: 0x83, Properties: &packets.Properties{}})
	broker := atMessages(t, func(p *packets.Publish) reply {
		if p.Topic == "good" || p.Topic != "bad" && works.Load() {
			return pubrec(p, 0)
		}
		return reply{packets: bye, closeNow: true}
	})
	sink := newSink(t, Config{URL: broker.url + "," + testkit.Broker(t).URL(), FailoverAfter: time.Hour, Logger: testkit.Logger(t)})
	bad := func(what string, doubted bool) {
		t.Helper()
		session := oneMessage(t, ctx, sink, "bad", "bad")
		if session.Limits().Standby {
			t.Fatalf("%s: it is at a standby", what)
		}
		<-session.Done()
		var d *driver.DisconnectedError
		if err := session.Err(); errors.Is(err, driver.ErrBrokerDoubted) != doubted || !errors.As(err, &d) {
			t.Errorf("%s: it ended with %v", what, err)
		}
	}
	bad("alone", true)
	longAgo(sink, time.Minute)
	bad("asked early, and fails", true)
	longAgo(sink, 2*time.Hour)
	acks := newCollector()
	good, err := sink.Connect(ctx, driver.ConnectOptions{ClientID: driver.ProbePrefix + "does not ask", QoS: 2, Acks: acks.take})
	if err != nil || at(good) != broker.url {
		t.Fatal(err)
	}
	if err := good.Publish(messages("good", 2, 1)); err != nil {
		t.Fatal(err)
	}
	acks.wait(t, ctx, 1)
	bad("beside one whose message was answered", false)
	works.Store(true)
	sink.choice.brokers[0].vouched = time.Time{} // nobody else uses it now
	bad("alone again", true)
	longAgo(sink, 2*time.Hour)
	for range vouchers {
		bad("asked, and works", false)
	}
	bad("it may have failed since", true)
	works.Store(false)
	longAgo(sink, 2*time.Hour)
	bad("an old doubt, and it fails once", true)
	longAgo(sink, 2*time.Hour)
	session := oneMessage(t, ctx, sink, "bad", "bad")
	if !session.Limits().Standby {
		t.Error("it is not left")
	}
	within(t, session.Close)
	within(t, func(ctx context.Context) error {
		select {
		case <-good.Done():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err := good.Err(); !errors.Is(err, errBrokerLeft) {
		t.Errorf("the session that was left there: %v", err)
	}
}

// TestIdleLanesAndAnotherThatFails: lanes that are idle, and whose pings are answered, do not hide that the
// broker fails at each message; they leave it together with the lane that has found out.
func TestIdleLanesAndAnotherThatFails(t *testing.T) {
	for _, qos := range []byte{0, 2} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			pings := make(chan struct{}, 100)
			broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
				switch p.Type {
				case packets.PINGREQ:
					pings <- struct{}{}
				case packets.PUBLISH:
					return reply{closeNow: true}
				}
				return reply{}
			})
			sink := newSink(t, Config{URL: broker.url + "," + testkit.Broker(t).URL(), FailoverAfter: time.Hour, KeepAlive: time.Second, Logger: testkit.Logger(t)})
			idle, _ := open(t, ctx, sink, "idle", qos)
			for range 2 { // when the second is sent, the first is answered
				select {
				case <-pings:
				case <-ctx.Done():
					t.Fatal("no ping")
				}
			}
			connect := func() driver.Session {
				s, err := sink.Connect(ctx, driver.ConnectOptions{ClientID: "busy", QoS: qos, Acks: func([]driver.Ack) {}})
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			busy := connect()
			_ = busy.Publish(messages("x", qos, 1))
			<-busy.Done()
			for range 2 { // asked for the first time, it may have failed just now
				longAgo(sink, 2*time.Hour)
				busy.Abort()
				busy = connect()
			}
			moved := busy
			if !moved.Limits().Standby {
				t.Fatal("it stays at a broker that fails at each message")
			}
			moved.Abort()
			<-idle.Done()
			if err := idle.Err(); !errors.Is(err, driver.ErrSessionGivenUp) {
				t.Errorf("the idle one has ended with %v", err)
			}
		})
	}
}

// TestBrokerThatIgnoresLanes: sessions of which a broker does not say whose they are do not hide that no lane can
// connect.
func TestBrokerThatIgnoresLanes(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(testContext(t))
	present := connack(t, 0, nil)
	present[2] = 1
	asked := make(chan struct{}, 1)
	broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
		switch p.Type {
		case packets.CONNECT:
			return reply{packets: present}
		case packets.UNSUBSCRIBE:
			asked <- struct{}{}
			return reply{packets: []byte{}}
		}
		return reply{}
	})
	sink := newSink(t, Config{URL: broker.url + ",mqtt://127.0.0.1:1", FailoverAfter: AtOnce})
	sink.choice.home = 0
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if s, err := sink.Connect(ctx, driver.ConnectOptions{ClientID: "pending", QoS: 2, Mark: "ours", Acks: func([]driver.Ack) {}}); err == nil {
			t.Error("it has a session")
			s.Abort()
		}
	}()
	select {
	case <-asked:
	case <-ctx.Done():
		t.Fatal("it is not asked whose session that is")
	}
	first := sink.choice.brokers[0]
	sink.choice.failed(route{first, first}, "another", time.Now())
	if sink.choice.inUse() == first {
		t.Error("the lanes stay")
	}
	cancel()
	<-ended
}

// TestBrokerThatLetsNobodyIn: a broker that drops the connections of whoever would ask, and lets lanes in, is believed
// to work after a while: else a message that makes it end the connection would never be given up.
func TestBrokerThatLetsNobodyIn(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
		connect, connects := p.Content.(*packets.Connect)
		return reply{closeNow: p.Type == packets.PUBLISH || connects && strings.HasPrefix(connect.ClientID, driver.ProbePrefix)}
	})
	sink := newSink(t, Config{URL: broker.url + ",mqtt://127.0.0.1:1", Logger: testkit.Logger(t)})
	for i, doubted := range []bool{true, true, false, false, true, false} {
		session := oneMessage(t, ctx, sink, "x", "poison")
		<-session.Done()
		if err := session.Err(); at(session) != broker.url || errors.Is(err, driver.ErrBrokerDoubted) != doubted {
			t.Errorf("session %d at %s has ended with %v", i, at(session), err)
		}
		if i != 2 && i != 3 {
			longAgo(sink, time.Minute)
		}
		if b := sink.choice.brokers[0]; !b.unreached.IsZero() {
			b.unreached = b.unreached.Add(-letsNobodyIn)
		}
	}
}

// TestIdleSessionsSayNothing: what does not count against a broker: a session that was idle, or closed by us.
func TestIdleSessionsSayNothing(t *testing.T) {
	b := newSink(t, Config{URL: "mqtt://127.0.0.1:1,mqtt://127.0.0.1:2"}).choice.brokers[0]
	for name, test := range map[string]struct {
		s    *session
		want bool
	}{
		"nothing was heard":       {&session{err: errClosedByBroker}, true},
		"pings were answered":     {&session{err: errClosedByBroker, pongs: 1}, false},
		"and a message was not":   {&session{err: errClosedByBroker, pongs: 1, unanswered: 1}, true},
		"a message was answered":  {&session{err: errClosedByBroker, worked: true, unanswered: 1}, false},
		"closed, and slow":        {&session{err: context.DeadlineExceeded, heard: true}, false},
		"closed, and silent":      {&session{err: context.DeadlineExceeded}, true},
		"a probe of the lane":     {&session{err: errClosedByBroker, clientID: newProbeID()}, false},
		"given up for the lease":  {&session{err: errMayNotPublish, unanswered: 1}, false},
		"taken over":              {&session{err: driver.ErrSessionTakenOver}, false},
		"silent, after the marks": {&session{err: errConnectTimeout, heard: true}, true},
	} {
		test.s.via = b
		if got, _ := test.s.fruitless(); got != test.want {
			t.Errorf("%s: fruitless is %t", name, got)
		}
	}
}

// TestLeftBehindWhereNothingWorks: a lane that has gone back to a standby to settle what it has in flight does
// not stay where each session ends at a message, and nothing counts against the messages meanwhile.
func TestLeftBehindWhereNothingWorks(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	standby := atMessages(t, func(*packets.Publish) reply { return reply{closeNow: true} })
	primary := testkit.Broker(t).URL()
	sink := newSink(t, Config{URL: primary + "," + standby.url, FailoverAfter: time.Hour, Logger: testkit.Logger(t)})
	sink.choice.at, sink.choice.home = 1, 1
	there, _ := open(t, ctx, sink, "there", 2)
	for !there.ShouldLeave(ctx) {
		sink.choice.asked = time.Time{} // as if the pause were over
	}
	unsettled := func() driver.Session {
		acks := newCollector()
		s, err := sink.Connect(ctx, driver.ConnectOptions{
			ClientID: "unsettled", QoS: 2, Broker: strings.TrimPrefix(standby.url, "mqtt://"), Unsettled: true, Acks: acks.take,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for range 2 {
		s := unsettled()
		if at(s) != standby.url {
			t.Fatalf("it is at %s", at(s))
		}
		_ = s.Publish(messages("x", 2, 1))
		<-s.Done()
		if err := s.Err(); !errors.Is(err, driver.ErrBrokerDoubted) {
			t.Errorf("it has ended with %v", err)
		}
	}
	sink.choice.mu.Lock()
	for client, since := range sink.choice.behind {
		sink.choice.behind[client] = since.Add(-2 * time.Hour)
	}
	sink.choice.mu.Unlock()
	s := unsettled()
	if at(s) != primary {
		t.Errorf("it is at %s still", at(s))
	}
	within(t, s.Close)
}

// TestReturnsThatFail: after each return that fails soon, the preferred broker is left alone for longer.
func TestReturnsThatFail(t *testing.T) {
	c := newSink(t, Config{URL: "mqtt://127.0.0.1:1,mqtt://127.0.0.1:2"}).choice
	fails := func(after time.Duration) time.Duration {
		c.returned, c.returnedAt = true, time.Now().Add(-after)
		c.tryNext()
		c.tryNext() // through the list
		return c.holdOff
	}
	for i, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, mostHoldOff, mostHoldOff} {
		if got := fails(time.Second); got != want || time.Until(c.notBefore) < want-time.Minute/2 {
			t.Errorf("after %d of them: %v", i+1, got)
		}
	}
	if got := fails(steadyReturn); got != 0 {
		t.Errorf("after one that has lasted: %v", got)
	}
}

// TestWorks: a broker works if it agrees to what a lane needs and answers a message.
func TestWorks(t *testing.T) {
	no, one, zero := byte(0), byte(1), uint32(0)
	agrees := func(p *packets.Properties) func(t *testing.T) *fakeBroker {
		return func(t *testing.T) *fakeBroker {
			answer := connack(t, 0, p)
			return startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
				if p.Type == packets.CONNECT {
					return reply{packets: answer}
				}
				return reply{closeNow: true}
			})
		}
	}
	answers := func(code byte) func(t *testing.T) *fakeBroker {
		return func(t *testing.T) *fakeBroker {
			return atMessages(t, func(p *packets.Publish) reply { return pubrec(p, code) })
		}
	}
	there := testkit.Broker(t).URL()
	refuses := func(code byte, to string) func(t *testing.T) *fakeBroker {
		return func(t *testing.T) *fakeBroker {
			return startFakeBroker(t, func(int, *packets.ControlPacket) reply {
				return reply{packets: connack(t, code, &packets.Properties{ServerReference: to}), closeNow: true}
			})
		}
	}
	for name, test := range map[string]struct {
		broker func(t *testing.T) *fakeBroker
		found  verdict
		want   string // in the error
	}{
		"QoS 0 only":               {agrees(&packets.Properties{MaximumQOS: &no}), fails, "it takes QoS 0 at most"},
		"QoS 1 only":               {agrees(&packets.Properties{MaximumQOS: &one}), fails, "it takes QoS 1 at most"},
		"keeps no session":         {agrees(&packets.Properties{SessionExpiryInterval: &zero}), fails, "it keeps no session"},
		"another client id":        {agrees(&packets.Properties{AssignedClientID: "other"}), fails, "it replaces our client id"},
		"closes at a message":      {agrees(nil), fails, "fails at a message"},
		"refuses with its trouble": {answers(0x83), fails, "fails at a message: it refuses it (implementation specific error)"},
		"does not allow the topic": {answers(codeNotAuthorized), works, ""},
		"answers":                  {answers(0), works, ""},
		"knows our lanes only":     {refuses(packets.ConnackInvalidClientID, ""), cannotBeAsked, "does not allow our client id"},
		"refuses the login":        {refuses(packets.ConnackNotAuthorized, ""), cannotBeAsked, "not authorized"},
		"refers to one that works": {refuses(packets.ConnackUseAnotherServer, strings.TrimPrefix(there, "mqtt://")), works, ""},
		"refers to a stranger":     {refuses(packets.ConnackServerMoved, "nowhere.invalid"), unreachable, "it has moved"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sink := newSink(t, Config{URL: test.broker(t).url + "," + there})
			found, err := sink.choice.brokers[0].probe(testContext(t), 2)
			if found != test.found || (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("found %d, %v, want %d, %q", found, err, test.found, test.want)
			}
		})
	}
	for _, qos := range allQoS {
		if _, err := newSink(t, Config{URL: there}).choice.brokers[0].probe(testContext(t), qos); err != nil {
			t.Errorf("mosquitto at QoS %d: %v", qos, err)
		}
	}
}

// TestIdentityOfOneBroker: the broker of the session is checked, and no other.
func TestIdentityOfOneBroker(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	present := connack(t, 0, nil)
	present[2] = 1
	shared := startFakeBroker(t, func(int, *packets.ControlPacket) reply { return reply{packets: slices.Clone(present)} })
	good := testkit.Broker(t).URL()
	sink := newSink(t, Config{URL: shared.url + "," + good})
	open(t, ctx, sink, "there", 1)
	if err := sink.CheckIdentity(ctx, strings.TrimPrefix(good, "mqtt://"), 1); err != nil {
		t.Errorf("the other one: %v", err)
	}
	wantShared(t, "the one in use", sink.CheckIdentity(ctx, "", 1))
	wantShared(t, "the one of the session", sink.CheckIdentity(ctx, strings.TrimPrefix(shared.url, "mqtt://"), 1))
}

// TestBrokerThatIgnoresMessages: a broker that answers pings, and no message that was sent before them, is left as well,
// also by a lane that has gone back to it to settle.
func TestBrokerThatIgnoresMessages(t *testing.T) {
	there := testkit.Broker(t).URL()
	ignores := func(t *testing.T) string {
		return atMessages(t, func(p *packets.Publish) reply {
			return reply{packets: []byte{}, closeNow: strings.HasPrefix(p.Topic, passingTopics)} // so that the probe need not wait
		}).url
	}
	ignored := func(t *testing.T, s driver.Session) bool {
		t.Helper()
		if err := s.Publish(messages("x", 2, 1)); err != nil {
			t.Fatal(err)
		}
		ours := s.(*session)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			ours.mu.Lock()
			since := ours.ignored
			if !since.IsZero() {
				ours.ignored = since.Add(-leastIgnored)
			}
			ours.mu.Unlock()
			if !since.IsZero() {
				return true
			}
			select {
			case <-tick.C:
			case <-s.Done():
				return false
			}
		}
	}
	left := func(t *testing.T, s driver.Session) {
		t.Helper()
		within(t, func(ctx context.Context) error {
			select {
			case <-s.Done():
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err := s.Err(); !errors.Is(err, errBrokerLeft) {
			t.Errorf("the session has ended with %v", err)
		}
	}
	cfg := Config{FailoverAfter: AtOnce, KeepAlive: time.Second}
	t.Run("in use", func(t *testing.T) {
		t.Parallel()
		ctx, cfg := testContext(t), cfg
		cfg.URL, cfg.Logger = ignores(t)+","+there, testkit.Logger(t)
		sink := newSink(t, cfg)
		s, _ := open(t, ctx, sink, t.Name(), 2)
		if s.ShouldLeave(ctx) || !ignored(t, s) || s.ShouldLeave(ctx) {
			t.Fatal("it is to return, or has ended")
		}
		left(t, s)
		if s, _ := open(t, ctx, sink, t.Name(), 2); at(s) != there {
			t.Errorf("the next one is at %s", at(s))
		}
	})
	t.Run("left behind", func(t *testing.T) {
		t.Parallel()
		ctx, cfg := testContext(t), cfg
		standby := ignores(t)
		cfg.URL, cfg.Logger = there+","+standby, testkit.Logger(t)
		sink := newSink(t, cfg)
		sink.choice.home, sink.choice.returned = 0, true
		opts := driver.ConnectOptions{ClientID: t.Name(), QoS: 2, Broker: strings.TrimPrefix(standby, "mqtt://"), Unsettled: true, Acks: func([]driver.Ack) {}}
		s, err := sink.Connect(ctx, opts)
		if err != nil || at(s) != standby || !s.ShouldLeave(ctx) {
			t.Fatalf("it is not there: %v", err)
		}
		if !ignored(t, s) || s.ShouldLeave(ctx) {
			t.Fatal("it has ended, or waits")
		}
		left(t, s)
		if s, err = sink.Connect(ctx, opts); err != nil || at(s) != there {
			t.Fatalf("the next one: %v", err)
		}
		within(t, s.Close)
	})
	t.Run("slow", func(t *testing.T) {
		t.Parallel()
		ctx, cfg := testContext(t), cfg
		broker := atMessages(t, func(*packets.Publish) reply { return reply{packets: []byte{}} })
		cfg.URL, cfg.Logger = broker.url+","+there, testkit.Logger(t)
		s, acks := open(t, ctx, newSink(t, cfg), t.Name(), 2)
		if !ignored(t, s) {
			t.Fatal("it has ended")
		}
		broker.send(1, encode(&packets.Pubrec{PacketID: 1, Properties: &packets.Properties{}}))
		acks.wait(t, ctx, 1)
		if s.ShouldLeave(ctx); s.Err() != nil {
			t.Errorf("it has ended with %v", s.Err())
		}
	})
}
