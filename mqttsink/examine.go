package mqttsink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Examine asks everything about the broker that a delivery of this QoS depends on, and returns an answer to
// each question, and at last what the answers mean for each delivery mode. What only a higher QoS needs is a
// warning at most.
//
// It connects with client ids of its own, driver.ProbePrefix and a random text, and publishes a few messages
// to topics below reactor/stage/. It leaves nothing behind: its sessions expire after a minute if it cannot
// discard them.
func (s *Sink) Examine(ctx context.Context, qos byte) []driver.Finding {
	var findings []driver.Finding
	for _, b := range s.choice.brokers {
		findings = append(findings, b.examine(ctx, qos)...)
	}
	return findings
}

func (b *broker) examine(ctx context.Context, qos byte) []driver.Finding {
	x := &brokerExamination{broker: b, qos: qos}
	if x.connect(ctx) {
		x.identity(ctx)
		x.exchange(ctx)
	}
	x.modes()
	return x.list
}

// brokerExamination examines one broker.
type brokerExamination struct {
	broker *broker
	qos    byte // the highest that is needed
	maxQoS byte // the highest that the broker takes
	list   []driver.Finding
	// against are the checks that speak against a delivery at each QoS, and doubts those without an answer.
	against, doubts [3][]string
}

func (x *brokerExamination) add(check string, verdict driver.Verdict, what, remedy string) {
	x.list = append(x.list, driver.Finding{Check: check, Verdict: verdict, What: what, Remedy: remedy})
}

// breaks adds a finding that makes deliveries of a QoS, and of those above it, impossible.
func (x *brokerExamination) breaks(qos byte, f driver.Finding) {
	if f.Verdict = driver.Problem; qos > x.qos {
		f.Verdict = driver.Warning
	}
	x.list = append(x.list, f)
	for q := qos; q <= 2; q++ {
		x.against[q] = append(x.against[q], f.Check)
	}
}

// unclear adds a finding for a question that could not be asked, of which deliveries of a QoS, and of those
// above it, depend.
func (x *brokerExamination) unclear(qos byte, check string, err error) {
	x.list = append(x.list, driver.FindingOf(check, driver.Unknown, err))
	for q := qos; q <= 2; q++ {
		x.doubts[q] = append(x.doubts[q], check)
	}
}

// connect asks what a CONNACK answers.
func (x *brokerExamination) connect(ctx context.Context) bool {
	b := x.broker
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.ConnectTimeout, errConnectTimeout)
	defer cancel()
	request := b.connectPacket(driver.ConnectOptions{ClientID: newProbeID(), QoS: 2, Fresh: true})
	begun := time.Now()
	conn, reader, connack, err := b.open(ctx, request)
	if errors.Is(err, errNoAnswer) {
		conn, reader, connack, err = b.openOldBroker(ctx, request, err)
	}
	var refused *driver.ConnectRefusedError
	switch {
	case errors.As(err, &refused) && speaksNoMQTT5(refused.Code):
		x.breaks(0, driver.FindingOf("MQTT 5", driver.Problem, err))
		return false
	case err != nil:
		x.breaks(0, driver.FindingOf("broker", driver.Problem, err))
		return false
	}
	(&probe{conn: conn, reader: reader}).leave(0)
	closeNow(conn)
	how := "without TLS"
	if b.secure {
		how = "with TLS"
	}
	x.add("broker", driver.Fine, fmt.Sprintf("connected to %s %s, accepted after %v", b.address, how, time.Since(begun).Round(10*time.Microsecond)), "")
	x.add("MQTT 5", driver.Fine, "spoken", "")
	x.limits(connack.Properties)
	return true
}

func speaksNoMQTT5(code byte) bool {
	return code == packets.ConnackMalformedPacket || code == packets.ConnackProtocolError || code == packets.ConnackUnsupportedProtocolVersion
}

// limits judges what the broker has announced.
func (x *brokerExamination) limits(p *packets.Properties) {
	x.maxQoS = 2
	if p.MaximumQOS != nil {
		x.maxQoS = *p.MaximumQOS
	}
	if x.maxQoS == 2 {
		x.add("QoS", driver.Fine, "takes QoS 2, 1 and 0", "")
	} else {
		x.breaks(x.maxQoS+1, driver.Finding{
			Check: "QoS", What: fmt.Sprintf("takes QoS %d at most", x.maxQoS),
			Remedy: "set reactor.Config.Delivery to " + deliveryFor(x.maxQoS) + ", or use a broker that takes QoS 2",
		})
	}
	window := x.broker.cfg.inFlight(2)
	const most, few = 65535, 100
	announced := most
	if p.ReceiveMaximum != nil {
		announced = int(*p.ReceiveMaximum)
	}
	window = min(window, (announced+1)/2)
	what := fmt.Sprintf("%d: a lane has up to %d messages in flight at QoS 2, and %d at QoS 1", announced, window, min(announced, x.broker.cfg.inFlight(1)))
	if window < few && x.qos > 0 {
		x.add("Receive Maximum", driver.Warning, what+", which limits its throughput", "raise it in the broker to 1000 (mosquitto: max_inflight_messages; EMQX: mqtt.max_awaiting_rel), or use more lanes (reactor.Config.Lanes)")
	} else {
		x.add("Receive Maximum", driver.Fine, what, "")
	}
	if n := p.MaximumPacketSize; n != nil {
		x.add("packet size", driver.Fine, fmt.Sprintf("%d bytes at most: larger jobs fail before they are sent", *n), "")
	} else {
		x.add("packet size", driver.Fine, "no limit but MQTT's, 256 MB", "")
	}
	if p.RetainAvailable != nil && *p.RetainAvailable == 0 {
		x.add("retain", driver.Warning, "the broker retains no messages: jobs with retain fail", "let it retain messages, or set retain in no job")
	} else {
		x.add("retain", driver.Fine, "possible", "")
	}
	x.sessionExpiry(p)
}

// sessionExpiry judges how long the broker keeps the session of a lane that is away.
func (x *brokerExamination) sessionExpiry(p *packets.Properties) {
	const check = "session expiry"
	kept := x.broker.cfg.SessionExpiry
	if n := p.SessionExpiryInterval; n != nil {
		kept = time.Duration(*n) * time.Second
	}
	what := fmt.Sprintf("keeps the session of a client that is away for %v", kept)
	switch {
	case kept == 0:
		x.breaks(2, driver.Finding{Check: check, What: "keeps no session of a client that is away", Remedy: "let it keep sessions, or set reactor.Config.Delivery to AtLeastOnce"})
	case kept < shortExpiry && x.qos == 2:
		x.add(check, driver.Warning, what+": after a longer outage the messages in flight count as lost", "let it keep sessions for an hour or more")
	default:
		x.add(check, driver.Fine, what, "")
	}
}

// identity asks whether a client id is ours alone.
func (x *brokerExamination) identity(ctx context.Context) {
	const check = "client id"
	err := x.broker.checkIdentity(ctx, min(x.qos, x.maxQoS))
	var refused *driver.ConnectRefusedError
	switch {
	case errors.As(err, &refused):
		x.breaks(0, driver.FindingOf(check, driver.Problem, err))
	case err != nil:
		x.unclear(0, check, err)
	default:
		x.add(check, driver.Fine, "clients with different client ids have different sessions", "")
	}
}

// modes says what was found means for each delivery mode.
func (x *brokerExamination) modes() {
	for qos, mode := range []string{"at-most-once", "at-least-once", "exactly-once"} {
		verdict := driver.Warning
		if byte(qos) == x.qos {
			verdict = driver.Problem
		}
		switch against, doubts := x.against[qos], x.doubts[qos]; {
		case len(against) > 0:
			f := driver.Finding{Check: mode, Verdict: verdict, What: "not with this broker, because of: " + strings.Join(against, ", ")}
			if verdict == driver.Problem {
				f.Remedy = "see there"
			}
			x.list = append(x.list, f)
		case len(doubts) > 0:
			x.add(mode, driver.Unknown, "unclear, because of: "+strings.Join(doubts, ", "), "")
		default:
			x.add(mode, driver.Fine, meanings[qos], "")
		}
	}
}

// meanings are what a broker without faults means for the deliveries.
var meanings = [3]string{
	"possible: a crash or a lost connection may lose messages, and repeats none",
	"possible: none is lost, and a crash or a lost connection may repeat some",
	"possible, as long as the broker keeps its session state when it is restarted: switch its persistence on",
}
