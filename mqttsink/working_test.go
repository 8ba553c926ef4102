package mqttsink

import (
	"context"
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

// TestPatienceWithFruitlessSessions: a broker that does not work is left after FailoverAfter, and not while
// a session of another lane works there.
func TestPatienceWithFruitlessSessions(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	works := true
	broker := atMessages(t, func(p *packets.Publish) reply {
		if p.Topic == "good" && works {
			return pubrec(p, 0)
		}
		return reply{closeNow: true}
	})
	there := testkit.Broker(t).URL()
	sink := newSink(t, Config{URL: broker.url + "," + there, FailoverAfter: time.Hour, Logger: testkit.Logger(t)})
	back := func(d time.Duration) { // as if sessions were fruitless for so long
		sink.choice.mu.Lock()
		defer sink.choice.mu.Unlock()
		if !sink.choice.fruitless.IsZero() {
			sink.choice.fruitless = sink.choice.fruitless.Add(-d)
		}
	}
	standby := func(what string, topic string, want bool) driver.Session {
		t.Helper()
		session := oneMessage(t, ctx, sink, topic, topic)
		if session.Limits().Standby != want {
			t.Fatalf("%s: at a standby is %t", what, !want)
		}
		return session
	}
	good := standby("one that works", "good", false)
	<-standby("beside one that works", "bad", false).Done()
	back(2 * time.Hour)
	<-standby("beside one that works, after a long time", "bad", false).Done()
	good.Abort()
	<-standby("alone", "bad", false).Done()
	back(time.Minute)
	<-standby("alone, after a short time", "bad", false).Done()
	back(2 * time.Hour)
	within(t, standby("alone, after a long time", "bad", true).Close)
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
	for name, test := range map[string]struct {
		broker func(t *testing.T) *fakeBroker
		want   string // in the error; "": it works
	}{
		"QoS 0 only":               {agrees(&packets.Properties{MaximumQOS: &no}), "it takes QoS 0 at most"},
		"QoS 1 only":               {agrees(&packets.Properties{MaximumQOS: &one}), "it takes QoS 1 at most"},
		"keeps no session":         {agrees(&packets.Properties{SessionExpiryInterval: &zero}), "it keeps no session"},
		"another client id":        {agrees(&packets.Properties{AssignedClientID: "other"}), "it replaces our client id"},
		"closes at a message":      {agrees(nil), "fails at a message"},
		"refuses with its trouble": {answers(0x83), "fails at a message: it refuses it (implementation specific error)"},
		"does not allow the topic": {answers(codeNotAuthorized), ""},
		"answers":                  {answers(0), ""},
		"knows our lanes only": {func(t *testing.T) *fakeBroker {
			return startFakeBroker(t, func(int, *packets.ControlPacket) reply {
				return reply{packets: connack(t, packets.ConnackInvalidClientID, nil), closeNow: true}
			})
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sink := newSink(t, Config{URL: test.broker(t).url})
			connected, err := sink.choice.brokers[0].works(testContext(t), 2)
			if !connected || (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("connected %t, %v, want %q", connected, err, test.want)
			}
		})
	}
	for _, qos := range allQoS {
		if _, err := newSink(t, Config{URL: testkit.Broker(t).URL()}).choice.brokers[0].works(testContext(t), qos); err != nil {
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
