package mqttsink

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

var allQoS = []byte{2, 1, 0}

// wantShared checks that the refusal names the settings.
func wantShared(t *testing.T, what string, err error) {
	t.Helper()
	var refused *driver.ConnectRefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "use_username_as_clientid") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %v, want a refusal that names the setting", what, err)
	}
}

// TestIdentityByUserName: mosquitto with use_username_as_clientid, with and without a connected
// lane.
func TestIdentityByUserName(t *testing.T) {
	for _, qos := range allQoS {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{
				Username: "reactor", Password: "sesame", ExtraLines: []string{"use_username_as_clientid true"},
			})
			sink := newSink(t, Config{URL: broker.URL()})
			wantShared(t, "before anything else", sink.CheckIdentity(ctx, "", qos))
			lane, _ := open(t, ctx, sink, "lane", qos)
			wantShared(t, "with a lane", sink.CheckIdentity(ctx, "", qos))
			<-lane.Done() // the broker closed it
		})
	}
}

// TestIdentityOfAnother: the check does not discard the session of another client, most likely of a
// lane: a probe that finds it leaves it with the expiry of a lane.
func TestIdentityOfAnother(t *testing.T) {
	present := connack(t, 0, nil)
	present[2] = 1
	for qos, want := range map[byte]uint32{2: 24 * 60 * 60, 0: 0} {
		gone := make(chan *packets.Disconnect, 1)
		broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
			if d, ok := p.Content.(*packets.Disconnect); ok {
				gone <- d
			}
			return reply{packets: present, closeNow: p.Type == packets.DISCONNECT}
		})
		wantShared(t, "a session is there", newSink(t, Config{URL: broker.url}).CheckIdentity(testContext(t), "", qos))
		if e := (<-gone).Properties.SessionExpiryInterval; e == nil || *e != want {
			t.Errorf("QoS %d: the session is left to be kept for %v", qos, e)
		}
	}
}

// TestIdentityByClientID: a broker as it should be.
func TestIdentityByClientID(t *testing.T) {
	ctx := testContext(t)
	for _, qos := range allQoS {
		sink := newSink(t, Config{URL: testkit.Broker(t).URL()})
		lane, acks := open(t, ctx, sink, testkit.TopicPrefix(t), qos)
		if err := sink.CheckIdentity(ctx, "", qos); err != nil {
			t.Errorf("QoS %d: %v", qos, err)
		}
		if err := lane.Publish(messages("x", qos, 1)); err != nil {
			t.Errorf("QoS %d: the lane was disturbed: %v", qos, err)
		}
		acks.wait(t, ctx, 1)
	}
}

// TestIdentityAnswers: other answers that a broker may give to the two probes.
func TestIdentityAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		answer         func(conn int, p *packets.ControlPacket) reply
		shared, passes bool
	}{
		"it keeps them apart": {func(int, *packets.ControlPacket) reply { return reply{} }, false, true},
		"it keeps no sessions, and says that the first was taken over": {func(conn int, p *packets.ControlPacket) reply {
			if p.Type == packets.PINGREQ {
				return reply{packets: []byte{packets.DISCONNECT << 4, 1, packets.DisconnectSessionTakenOver}, closeNow: true}
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
			err := newSink(t, Config{URL: broker.url, ConnectTimeout: time.Second}).CheckIdentity(testContext(t), "", 0)
			var refused *driver.ConnectRefusedError
			switch {
			case test.shared:
				wantShared(t, "checking", err)
			case test.passes && err != nil, !test.passes && (err == nil || errors.As(err, &refused)):
				t.Errorf("checking yields %v", err)
			}
			// Nothing is left of a probe.
			for _, d := range broker.goodbyes() {
				if e := d.Properties.SessionExpiryInterval; e == nil || *e != 0 {
					t.Errorf("a probe disconnects with a session expiry of %v", e)
				}
			}
		})
	}
}
