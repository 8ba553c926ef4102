package mqttsink

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// examined are the findings about a broker, by check.
func examined(t *testing.T, ctx context.Context, url string, qos byte) map[string]driver.Finding {
	t.Helper()
	found := map[string]driver.Finding{}
	for _, f := range newSink(t, Config{URL: url}).Examine(ctx, qos) {
		testkit.CheckFinding(t, f)
		if strings.Contains(f.What+f.Remedy, "sesame") {
			t.Errorf("%s shows a password: %+v", f.Check, f)
		}
		if _, twice := found[f.Check]; twice {
			t.Errorf("%s is asked twice", f.Check)
		}
		found[f.Check] = f
	}
	return found
}

// modes are the verdicts on the three delivery modes, by QoS.
func modes(found map[string]driver.Finding) [3]driver.Verdict {
	return [3]driver.Verdict{found["at-most-once"].Verdict, found["at-least-once"].Verdict, found["exactly-once"].Verdict}
}

const (
	fine    = driver.Fine
	warning = driver.Warning
	problem = driver.Problem
	unknown = driver.Unknown
)

// TestExamineSound: a broker with the settings that we recommend, at each QoS. Nothing of ours is left there.
func TestExamineSound(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{Persistence: true})
	for _, qos := range allQoS {
		found := examined(t, ctx, broker.URL(), qos)
		for check, f := range found {
			if f.Verdict != fine || f.Remedy != "" {
				t.Errorf("QoS %d, %s: %+v", qos, check, f)
			}
		}
		if len(found) < 16 {
			t.Errorf("QoS %d: only %d questions were asked", qos, len(found))
		}
		testkit.ExpectFinding(t, found, "passing on", fine, "at PUBREL", "")
	}
}

// TestExamineMosquitto: settings of Mosquitto that harm.
func TestExamineMosquitto(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		broker       stack.MosquittoConfig
		qos          byte
		check        string
		verdict      driver.Verdict
		what, remedy string
		modes        [3]driver.Verdict
	}{
		"QoS 1 at most":     {stack.MosquittoConfig{ExtraLines: []string{"max_qos 1"}}, 2, "QoS", problem, "takes QoS 1 at most", "AtLeastOnce", [3]driver.Verdict{fine, fine, problem}},
		"QoS 1 is enough":   {stack.MosquittoConfig{ExtraLines: []string{"max_qos 1"}}, 1, "QoS", warning, "takes QoS 1 at most", "", [3]driver.Verdict{fine, fine, warning}},
		"QoS 0 at most":     {stack.MosquittoConfig{ExtraLines: []string{"max_qos 0"}}, 1, "QoS", problem, "takes QoS 0 at most", "AtMostOnce", [3]driver.Verdict{fine, problem, warning}},
		"small window":      {stack.MosquittoConfig{MaxInflight: 20}, 2, "Receive Maximum", warning, "up to 10 messages in flight", "max_inflight_messages", [3]driver.Verdict{}},
		"packet size":       {stack.MosquittoConfig{ExtraLines: []string{"max_packet_size 4000"}}, 2, "packet size", fine, "4000 bytes at most", "", [3]driver.Verdict{}},
		"no retain":         {stack.MosquittoConfig{ExtraLines: []string{"retain_available false"}}, 2, "retain", warning, "retains no messages", "", [3]driver.Verdict{}},
		"user is client id": {stack.MosquittoConfig{Username: "reactor", Password: "sesame", ExtraLines: []string{"use_username_as_clientid true"}}, 2, "client id", problem, "something else than their client id", "use_username_as_clientid", [3]driver.Verdict{warning, warning, problem}},
		"no rights":         {stack.MosquittoConfig{Username: "reactor", Password: "sesame", AccessRules: []string{"topic write jobs/#"}}, 2, "repetitions", unknown, "the broker refuses the message for that", "reactor/stage/#", [3]driver.Verdict{fine, fine, unknown}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := examined(t, testContext(t), testkit.OwnMosquitto(t, c.broker).URL(), c.qos)
			testkit.ExpectFinding(t, found, c.check, c.verdict, c.what, c.remedy)
			if got := modes(found); got != c.modes {
				t.Errorf("the modes are %v, want %v", got, c.modes)
			}
		})
	}
	t.Run("no broker", func(t *testing.T) {
		t.Parallel()
		found := examined(t, testContext(t), "mqtt://127.0.0.1:1", 2)
		testkit.ExpectFinding(t, found, "broker", problem, "connection refused", "is the broker running")
		if len(found) != 4 || modes(found) != [3]driver.Verdict{warning, warning, problem} {
			t.Errorf("%v", found)
		}
	})
	t.Run("wrong password", func(t *testing.T) {
		t.Parallel()
		broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{Username: "reactor", Password: "sesame"})
		found := examined(t, testContext(t), strings.Replace(broker.URL(), "sesame", "sesamesame", 1), 0)
		testkit.ExpectFinding(t, found, "broker", problem, "not authorized", "check user and password")
	})
}

// TestExamineFaults: faults that no broker here shows on demand.
func TestExamineFaults(t *testing.T) {
	t.Parallel()
	const ( // the connections, in their order
		listening = 4
		resumed   = 6
	)
	for name, c := range map[string]struct {
		lost    bool     // no session is there after the connection was cut
		code    byte     // of the PUBREC for the repetition
		hears   []string // what the subscriber hears, in front of the last message
		check   string
		verdict driver.Verdict
		what    string
	}{
		"a sound one":              {hears: []string{repeatedPayload, strangePayload}, check: "exactly-once", verdict: fine, what: "possible"},
		"the session is lost":      {lost: true, check: "session", verdict: problem, what: "lost when the connection is cut"},
		"refuses repetitions":      {code: 0x97, check: "repetitions", verdict: problem, what: "quota exceeded"},
		"packet id in use":         {code: 0x91, hears: []string{repeatedPayload, strangePayload}, check: "repetitions", verdict: warning, what: "0x91"},
		"passes on twice":          {hears: []string{repeatedPayload, repeatedPayload, strangePayload}, check: "repetitions", verdict: problem, what: "2 times"},
		"loses what is repeated":   {hears: []string{strangePayload}, check: "repetitions", verdict: problem, what: "0 times"},
		"drops duplicates of none": {hears: []string{repeatedPayload}, check: "first with DUP", verdict: problem, what: "0 times"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var broker *fakeBroker
			broker = startFakeBroker(t, func(conn int, p *packets.ControlPacket) reply {
				switch packet := p.Content.(type) {
				case *packets.Connect:
					if conn == resumed && !c.lost {
						present := connack(t, 0, nil)
						present[2] = 1
						return reply{packets: present}
					}
				case *packets.Subscribe:
					return reply{packets: encode(&packets.Suback{PacketID: packet.PacketID, Reasons: slices.Repeat([]byte{0}, len(packet.Subscriptions)), Properties: &packets.Properties{}})}
				case *packets.Unsubscribe:
					return reply{packets: encode(&packets.Unsuback{PacketID: packet.PacketID, Reasons: slices.Repeat([]byte{codeSuccess}, len(packet.Topics)), Properties: &packets.Properties{}})}
				case *packets.Pubrel:
					return reply{packets: append(encode(&packets.Pubcomp{PacketID: packet.PacketID, Properties: &packets.Properties{}}), heard(conn, resumed)...)}
				case *packets.Publish:
					switch {
					case packet.QoS == 0 && conn == resumed:
						for _, payload := range append(slices.Clone(c.hears), lastPayload) {
							broker.send(listening, encode(&packets.Publish{Topic: packet.Topic, Payload: []byte(payload), Properties: &packets.Properties{}}))
						}
					case packet.QoS == 0: // the question when it passes on
						return reply{packets: encode(packet)}
					case conn == resumed && packet.Duplicate && packet.PacketID == uint16(repeatedSlot) && c.code > 0:
						return reply{packets: encode(&packets.Pubrec{PacketID: packet.PacketID, ReasonCode: c.code, Properties: &packets.Properties{}})}
					default:
						return reply{packets: encode(&packets.Pubrec{PacketID: packet.PacketID, Properties: &packets.Properties{}})}
					}
				}
				return reply{closeNow: p.Type == packets.DISCONNECT}
			})
			found := examined(t, testContext(t), broker.url, 2)
			testkit.ExpectFinding(t, found, c.check, c.verdict, c.what, "")
			want := c.verdict
			if want == warning {
				want = unknown
			}
			if got := found["exactly-once"].Verdict; got != want {
				t.Errorf("exactly-once: %v, want %v", got, want)
			}
			if !c.lost { // it answers every UNSUBSCRIBE with success
				testkit.ExpectFinding(t, found, "marks", warning, "noticed with less certainty", "")
			}
			if at := found["at-least-once"].Verdict; at != fine {
				t.Errorf("at-least-once: %v", at)
			}
		})
	}
}

// heard is what a subscriber hears when it releases its own message; the client that resumes hears nothing.
func heard(conn, resumed int) []byte {
	if conn == resumed {
		return nil
	}
	return encode(&packets.Publish{Topic: "t", Properties: &packets.Properties{}})
}

// TestExamineOldBroker: a broker of MQTT 3.1.1 is told from one that is not there.
func TestExamineOldBroker(t *testing.T) {
	t.Parallel()
	url := versioned(t, func(_, version int, conn net.Conn) {
		if version == 4 {
			_, _ = conn.Write([]byte{packets.CONNACK << 4, 2, 0, 0})
		}
	})
	testkit.ExpectFinding(t, examined(t, testContext(t), url, 1), "MQTT 5", problem, "speaks MQTT 3.1.1", "use a broker that speaks it")
}
