package mqttsink

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor"
)

var deliveries = []reactor.Delivery{reactor.ExactlyOnce, reactor.AtLeastOnce, reactor.AtMostOnce}

// wantShared wants the refusal that names the settings.
func wantShared(t *testing.T, what string, err error) {
	t.Helper()
	var refused *reactor.ConnectRefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "use_username_as_clientid") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %v, want a refusal that names the setting", what, err)
	}
}

// TestIdentityByUserName: mosquitto with use_username_as_clientid, without a lane and with
// one connected.
func TestIdentityByUserName(t *testing.T) {
	for _, delivery := range deliveries {
		t.Run(delivery.String(), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{
				Username: "reactor", Password: "sesame", ExtraLines: []string{"use_username_as_clientid true"},
			})
			sink := newSink(t, Config{URL: broker.URL()})
			wantShared(t, "before anything else", sink.CheckIdentity(ctx, delivery))
			lane, _ := open(t, ctx, sink, "lane", delivery)
			wantShared(t, "with a lane", sink.CheckIdentity(ctx, delivery))
			<-lane.Done() // the broker closed it
		})
	}
}

// TestIdentityOfAnother: what the session of somebody else holds, most likely a lane's, is
// not thrown away by asking: a probe that finds it leaves it to be kept as long as a lane's.
func TestIdentityOfAnother(t *testing.T) {
	present := connack(t, 0, nil)
	present[2] = 1
	for delivery, want := range map[reactor.Delivery]uint32{reactor.ExactlyOnce: 24 * 60 * 60, reactor.AtMostOnce: 0} {
		gone := make(chan *packets.Disconnect, 1)
		broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
			if d, ok := p.Content.(*packets.Disconnect); ok {
				gone <- d
			}
			return reply{packets: present, hangUp: p.Type == packets.DISCONNECT}
		})
		wantShared(t, "a session is there", newSink(t, Config{URL: broker.url}).CheckIdentity(testContext(t), delivery))
		if e := (<-gone).Properties.SessionExpiryInterval; e == nil || *e != want {
			t.Errorf("%v: the session is left to be kept for %v", delivery, e)
		}
	}
}

// TestIdentityByClientID: a broker as it should be.
func TestIdentityByClientID(t *testing.T) {
	ctx := testContext(t)
	for _, delivery := range deliveries {
		sink := newSink(t, Config{URL: testkit.Broker(t).URL()})
		lane, acks := open(t, ctx, sink, testkit.TopicPrefix(t), delivery)
		if err := sink.CheckIdentity(ctx, delivery); err != nil {
			t.Errorf("%v: %v", delivery, err)
		}
		if err := lane.Publish(messages("x", delivery.QoS(), 1)); err != nil {
			t.Errorf("%v: the lane was disturbed: %v", delivery, err)
		}
		acks.wait(t, ctx, 1)
	}
}

// TestIdentityAnswers: what else a broker may do with the two probes.
func TestIdentityAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		answer         func(conn int, p *packets.ControlPacket) reply
		shared, passes bool
	}{
		"it keeps them apart": {func(int, *packets.ControlPacket) reply { return reply{} }, false, true},
		"it keeps no sessions, and says that the first was taken over": {func(conn int, p *packets.ControlPacket) reply {
			if p.Type == packets.PINGREQ {
				return reply{packets: []byte{packets.DISCONNECT << 4, 1, packets.DisconnectSessionTakenOver}, hangUp: true}
			}
			return reply{}
		}, true, false},
		"it keeps no sessions, and hangs up on the first without a word": {func(conn int, p *packets.ControlPacket) reply {
			if p.Type == packets.CONNECT && conn%2 == 0 {
				return reply{hangUpOn: conn - 1}
			}
			return reply{}
		}, true, false},
		"it hangs up once": {func(conn int, p *packets.ControlPacket) reply {
			if p.Type == packets.CONNECT && conn == 2 {
				return reply{hangUpOn: 1}
			}
			return reply{}
		}, false, true},
		"it allows only the ids it knows": {func(conn int, p *packets.ControlPacket) reply {
			return reply{packets: encode(&packets.Connack{ReasonCode: packets.ConnackInvalidClientID, Properties: &packets.Properties{}})}
		}, false, true},
		"it is busy": {func(conn int, p *packets.ControlPacket) reply {
			return reply{packets: encode(&packets.Connack{ReasonCode: packets.ConnackServerBusy, Properties: &packets.Properties{}})}
		}, false, false},
		"it does not answer": {func(conn int, p *packets.ControlPacket) reply {
			if p.Type == packets.PINGREQ {
				return reply{packets: []byte{}}
			}
			return reply{}
		}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			broker := startFakeBroker(t, test.answer)
			err := newSink(t, Config{URL: broker.url, ConnectTimeout: time.Second}).CheckIdentity(testContext(t), reactor.AtMostOnce)
			var refused *reactor.ConnectRefusedError
			switch {
			case test.shared:
				wantShared(t, "checking", err)
			case test.passes && err != nil, !test.passes && (err == nil || errors.As(err, &refused)):
				t.Errorf("checking yields %v", err)
			}
			// Nothing is left of a probe.
			for _, d := range broker.goodbyes() {
				if e := d.Properties.SessionExpiryInterval; e == nil || *e != 0 {
					t.Errorf("a probe says goodbye with a session expiry of %v", e)
				}
			}
		})
	}
}
