package mqttsink

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestPassesOnAtRelease: mosquitto passes QoS 2 messages on at PUBREL. The lane is not disturbed.
func TestPassesOnAtRelease(t *testing.T) {
	ctx := testContext(t)
	sink := newSink(t, Config{URL: testkit.Broker(t).URL()})
	lane, acks := open(t, ctx, sink, testkit.TopicPrefix(t), 2)
	passing, err := lane.PassesOn(ctx)
	if err != nil || passing != driver.PassesOnAtRelease {
		t.Fatalf("it passes on at %d, %v", passing, err)
	}
	if err := lane.Publish(messages("x", 2, 1)); err != nil {
		t.Errorf("the lane was disturbed: %v", err)
	}
	acks.wait(t, ctx, 1)
}

// TestPassingNotAllowed: a broker that does not let the question be asked is told apart from one that
// has answered it, and the error names what to allow.
func TestPassingNotAllowed(t *testing.T) {
	for name, rule := range map[string]string{
		"publish":   "topic read reactor/#",
		"subscribe": "topic write reactor/#",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{
				Username: "reactor", Password: "sesame", AccessRules: []string{rule, "topic readwrite x"},
			})
			lane, _ := open(t, ctx, newSink(t, Config{URL: broker.URL()}), "lane", 2)
			passing, err := lane.PassesOn(ctx)
			if err == nil || passing != driver.PassingUnclear || !strings.Contains(err.Error(), "reactor/stage/#") || strings.Contains(err.Error(), "sesame") {
				t.Errorf("it passes on at %d, %v", passing, err)
			}
		})
	}
}

// TestPassing: brokers that pass on at PUBLISH, before PUBREC or after it, and those that leave the
// question open.
func TestPassing(t *testing.T) {
	const id = 1
	message := func(topic string) []byte {
		return encode(&packets.Publish{Topic: topic, Properties: &packets.Properties{}})
	}
	control := func(topic string) []byte {
		return encode(&packets.Publish{Topic: topic, Payload: []byte(controlPayload), Properties: &packets.Properties{}})
	}
	suback := encode(&packets.Suback{PacketID: id, Reasons: []byte{0}, Properties: &packets.Properties{}})
	pubrec := encode(&packets.Pubrec{PacketID: id, Properties: &packets.Properties{}})
	pubcomp := encode(&packets.Pubcomp{PacketID: id, Properties: &packets.Properties{}})
	for name, c := range map[string]struct {
		onPublish, onControl, onPing, onRelease func(topic string) []byte

		hangUp bool
		want   driver.Passing
		says   string
	}{
		"before PUBREC": {onPublish: func(topic string) []byte { return append(message(topic), pubrec...) }, want: driver.PassesOnAtPublish},
		"after PUBREC":  {onPublish: func(topic string) []byte { return append(bytes.Clone(pubrec), message(topic)...) }, want: driver.PassesOnAtPublish},
		"after PUBREC, by another way": {
			onPublish: func(string) []byte { return pubrec },
			onControl: func(topic string) []byte { return append(control(topic), message(topic)...) },
			want:      driver.PassesOnAtPublish,
		},
		"later than we wait": { // as it looks when we were stopped meanwhile, or the network
			onPublish: func(string) []byte { return pubrec },
			onPing:    message,
			want:      driver.PassesOnAtPublish,
		},
		"slow": {
			onPublish: func(string) []byte { return pubrec },
			onControl: func(topic string) []byte {
				time.Sleep(2 * passingSoon)
				return control(topic)
			},
			says: errTooSlow.Error(),
		},
		"slow at PUBREL": {
			onPublish: func(string) []byte { return pubrec },
			onRelease: func(topic string) []byte {
				time.Sleep(2 * passingSoon)
				return append(message(topic), pubcomp...)
			},
			says: errTooSlow.Error(),
		},
		"at PUBREL": {
			onPublish: func(string) []byte { return pubrec },
			onRelease: func(topic string) []byte { return append(bytes.Clone(pubcomp), message(topic)...) },
			want:      driver.PassesOnAtRelease,
		},
		"before PUBCOMP": {
			onPublish: func(string) []byte { return pubrec },
			onRelease: func(topic string) []byte { return append(message(topic), pubcomp...) },
			want:      driver.PassesOnAtRelease,
		},
		"hangs up": {onPublish: func(string) []byte { return pubrec }, hangUp: true, says: "finding out when broker"},
		"refuses": {onPublish: func(string) []byte {
			return encode(&packets.Pubrec{PacketID: id, ReasonCode: 0x87, Properties: &packets.Properties{}})
		}, says: "not authorized"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			topic := ""
			broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
				switch p := p.Content.(type) {
				case *packets.Connect:
					if e := p.Properties.SessionExpiryInterval; strings.HasPrefix(p.ClientID, driver.ProbePrefix) && (!p.CleanStart || e != nil && *e > 0) {
						t.Error("the session of the question may stay")
					}
				case *packets.Subscribe:
					return reply{packets: suback}
				case *packets.Publish:
					if p.QoS == 0 { // the one behind it
						if c.onControl != nil {
							return reply{packets: c.onControl(topic)}
						}
						return reply{packets: control(topic)}
					}
					topic = p.Topic
					return reply{packets: c.onPublish(topic)}
				case *packets.Pingreq:
					pong := encode(&packets.Pingresp{})
					if c.onPing != nil {
						return reply{packets: append(c.onPing(topic), pong...)}
					}
					return reply{packets: pong}
				case *packets.Pubrel:
					if c.hangUp {
						return reply{closeNow: true}
					}
					return reply{packets: c.onRelease(topic)}
				}
				return reply{}
			})
			ctx := testContext(t)
			lane, _ := open(t, ctx, newSink(t, Config{URL: broker.url}), "lane", 2)
			passing, err := lane.PassesOn(ctx)
			if passing != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("it passes on at %d, %v", passing, err)
			}
		})
	}
}
