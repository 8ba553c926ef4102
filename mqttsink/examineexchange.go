package mqttsink

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The questions about an exchange at QoS 2 are answered by one that is interrupted, as a lane's is when its
// connection is cut. A second client subscribes, and counts what is passed on:
//
//	PUBLISH 1 ─► PUBREC ─► the connection is cut ─► CONNECT, Clean Start 0: is the session there?
//	  ─► PUBLISH 1 with DUP ─► PUBREC                 is a repetition accepted?
//	  ─► PUBLISH 2 with DUP, which it never saw ─► PUBREC ─► PUBREL 1, 2 ─► PUBCOMP
//	  ─► PUBLISH at QoS 0                             when this one arrives, and for a while longer:
//	                                                  has each of the two arrived once?
const (
	repeatedPayload = "the repeated message"
	strangePayload  = "a duplicate of none"
	lastPayload     = "the last message"

	repeatedSlot, strangeSlot = driver.Slot(1), driver.Slot(2)
	// exchangePatience is how long all of it may take.
	exchangePatience = 15 * time.Second
)

// exchange asks the questions that need an exchange.
func (x *brokerExamination) exchange(ctx context.Context) {
	if x.maxQoS < 2 {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, exchangePatience, errTooSlow)
	defer cancel()
	// Its session is to expire soon, should we be killed.
	cfg := *x.broker.cfg
	cfg.SessionExpiry = probeExpiry
	probing := &broker{location: x.broker.location, cfg: &cfg, direct: x.broker.direct, login: x.broker.login, tls: x.broker.tls}
	probing.choice = newChoice([]*broker{probing}, cfg.FailoverAfter, cfg.Logger) // it has a session here, and nowhere else
	e := &exchange{broker: probing, id: newProbeID(), topic: passingTopics + rand.Text(), acks: make(chan driver.Ack, 16)}
	defer e.close()
	if err := e.listen(ctx); err != nil {
		x.unclear(2, "repetitions", err)
		return
	}
	first, err := e.begin(ctx)
	var refusal *refusedError
	if errors.As(err, &refusal) {
		x.unclear(2, "repetitions", fmt.Errorf("%w: %s", err, allowPassing))
		return
	} else if err != nil {
		x.unclear(2, "session", err)
		return
	}
	x.add("QoS 2", driver.Fine, fmt.Sprintf("received a message after %v", first.Round(10*time.Microsecond)), "")
	resumed, err := e.resume(ctx)
	switch {
	case err != nil:
		x.unclear(2, "session", err)
		return
	case !resumed:
		x.breaks(2, driver.Finding{Check: "session", What: "lost when the connection is cut: the broker says that there is none", Remedy: "let it keep sessions (persistent sessions), or set reactor.Config.Delivery to AtLeastOnce"})
		return
	}
	x.add("session", driver.Fine, "kept when the connection is cut", "")
	x.repetitions(e.repeat(ctx))
	x.marks(ctx, e.session)
	x.passing(ctx, e.session)
}

// repetitions judges what became of the repeated message, and of the duplicate of none.
func (x *brokerExamination) repetitions(r repeated, err error) {
	const check = "repetitions"
	switch {
	case err != nil:
		x.unclear(2, check, err)
		return
	case r.refused != "":
		x.breaks(2, driver.Finding{Check: check, What: "refuses a message that is sent again after the connection was cut (" + r.refused + "), which MQTT 5 does not allow it", Remedy: "use another broker, or set reactor.Config.Delivery to AtLeastOnce"})
		return
	case r.heard[repeatedPayload] != 1:
		x.breaks(2, driver.Finding{Check: check, What: fmt.Sprintf("a message that was sent again after the connection was cut has been passed on %d times", r.heard[repeatedPayload]), Remedy: "use another broker, or set reactor.Config.Delivery to AtLeastOnce"})
	case r.inUse:
		x.add(check, driver.Warning, "a repeated message is answered by 0x91, packet identifier in use, which counts as received: whether the broker has the message nobody knows", "try the broker with make chaos before you rely on exactly-once")
		x.doubts[2] = append(x.doubts[2], check)
	default:
		x.add(check, driver.Fine, "a message that is sent again after the connection was cut is passed on once", "")
	}
	if n := r.heard[strangePayload]; n != 1 {
		x.breaks(2, driver.Finding{Check: "first with DUP", What: fmt.Sprintf("a message marked as a duplicate that the broker never saw has been passed on %d times", n), Remedy: "use a version of the broker that looks at the packet id alone (EMQX: 6.2.4 or newer)"})
	} else {
		x.add("first with DUP", driver.Fine, "a message marked as a duplicate that the broker never saw is passed on once", "")
	}
}

func (x *brokerExamination) marks(ctx context.Context, s driver.Session) {
	const check = "marks"
	switch err := s.Mark(ctx, rand.Text()); {
	case errors.Is(err, driver.ErrCannotMark):
		x.list = append(x.list, driver.FindingOf(check, driver.Warning, fmt.Errorf("a lost session is noticed with less certainty: %w", err)))
	case err != nil:
		x.list = append(x.list, driver.FindingOf(check, driver.Unknown, err))
	default:
		x.add(check, driver.Fine, "possible, so that a lost session is noticed", "")
	}
}

func (x *brokerExamination) passing(ctx context.Context, s driver.Session) {
	const check = "passing on"
	passing, err := s.PassesOn(ctx)
	switch {
	case err != nil:
		x.list = append(x.list, driver.FindingOf(check, driver.Unknown, err))
	case passing == driver.PassesOnAtRelease:
		x.add(check, driver.Fine, "at PUBREL: exactly-once sends messages before their time, and releases them at it", "")
	default:
		x.add(check, driver.Fine, "at PUBLISH: exactly-once sends messages at their time only, which costs it about a round trip", "")
	}
}

// exchange is the interrupted exchange.
type exchange struct {
	broker    *broker
	id, topic string
	session   driver.Session
	acks      chan driver.Ack

	conn   net.Conn // of the client that subscribes
	reader *bufio.Reader
	stop   func() bool
}

// repeated is what became of the messages.
type repeated struct {
	heard   map[string]int // how often each payload was passed on
	refused string         // why the repetition was refused; "": it was not
	inUse   bool           // the repetition was answered by "packet identifier in use"
}

// refusedError is a refusal of the messages that we need.
type refusedError struct{ what string }

func (e *refusedError) Error() string { return "the broker refuses " + e.what }

func (e *exchange) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if e.session != nil {
		_ = e.session.Discard(ctx)
	}
	if e.conn != nil {
		e.stop()
		closeNow(e.conn)
	}
}

// listen subscribes with the second client.
func (e *exchange) listen(ctx context.Context) (err error) {
	connect := e.broker.connectPacket(driver.ConnectOptions{ClientID: newProbeID(), Fresh: true})
	if e.conn, e.reader, _, err = e.broker.open(ctx, connect); err != nil {
		e.conn = nil
		return err
	}
	conn := e.conn
	e.stop = context.AfterFunc(ctx, func() { closeNow(conn) })
	p := &passingProbe{conn: e.conn, reader: e.reader}
	return p.send(&packets.Subscribe{PacketID: 1, Properties: &packets.Properties{}, Subscriptions: []packets.SubOptions{{Topic: e.topic, RetainHandling: 2}}}, packets.SUBACK)
}

func (e *exchange) connect(ctx context.Context, fresh bool) (err error) {
	e.session, err = e.broker.connect(ctx, driver.ConnectOptions{ClientID: e.id, QoS: 2, Fresh: fresh, Acks: func(acks []driver.Ack) {
		for _, ack := range acks {
			select {
			case e.acks <- ack:
			default: // more than we have asked for
			}
		}
	}})
	return err
}

// begin publishes the first message, waits until the broker has received it, and cuts the connection.
func (e *exchange) begin(ctx context.Context) (took time.Duration, err error) {
	if err := e.connect(ctx, true); err != nil {
		return 0, err
	}
	sent := time.Now()
	ack, err := e.publish(ctx, driver.Message{Slot: repeatedSlot, Payload: []byte(repeatedPayload), QoS: 2})
	switch {
	case err != nil:
		return 0, err
	case ack.Refused():
		return 0, &refusedError{"the message for that (" + ack.Reason + ")"}
	}
	took = time.Since(sent)
	cut := e.session.(*session)
	cut.end(errClosed)
	<-cut.done
	return took, nil
}

// resume connects again, and reports whether the session is there.
func (e *exchange) resume(ctx context.Context) (bool, error) {
	if err := e.connect(ctx, false); err != nil {
		return false, err
	}
	return e.session.Limits().Present, nil
}

// repeat ends the exchange.
func (e *exchange) repeat(ctx context.Context) (r repeated, err error) {
	r.heard = map[string]int{}
	if err := e.send(driver.Message{Slot: repeatedSlot, Payload: []byte(repeatedPayload), QoS: 2, Dup: true}); err != nil {
		return r, err
	}
	if err := e.send(driver.Message{Slot: strangeSlot, Payload: []byte(strangePayload), QoS: 2, Dup: true}); err != nil {
		return r, err
	}
	// The broker answers in order. A broker may answer the first message twice: by itself when the session is
	// resumed, and when it is repeated.
	for answered := false; ; {
		ack, err := e.answer(ctx, driver.Received)
		switch {
		case err != nil:
			return r, err
		case ack.Slot == repeatedSlot:
			answered = true
			r.inUse = r.inUse || ack.Code == driver.CodeInUse
			if ack.Refused() && !r.inUse {
				r.refused = ack.Reason
				return r, nil
			}
			continue
		case !answered:
			return r, errors.New("the broker answers in another order than that of the messages")
		}
		break
	}
	if err := e.session.Release([]driver.Slot{repeatedSlot, strangeSlot}); err != nil {
		return r, err
	}
	for released := map[driver.Slot]bool{}; len(released) < 2; {
		ack, err := e.answer(ctx, driver.Released)
		if err != nil {
			return r, err
		}
		released[ack.Slot] = true
	}
	if _, err := e.publish(ctx, driver.Message{Slot: strangeSlot + 1, Payload: []byte(lastPayload)}); err != nil {
		return r, err
	}
	return r, e.hear(ctx, r.heard)
}

func (e *exchange) send(m driver.Message) error {
	m.Topic = e.topic
	return e.session.Publish([]driver.Message{m})
}

// publish sends a message, and waits for the first step of its exchange.
func (e *exchange) publish(ctx context.Context, m driver.Message) (driver.Ack, error) {
	if err := e.send(m); err != nil {
		return driver.Ack{}, err
	}
	if m.QoS == 0 {
		return e.answer(ctx, driver.Completed)
	}
	return e.answer(ctx, driver.Received)
}

func (e *exchange) answer(ctx context.Context, step driver.Step) (driver.Ack, error) {
	for {
		select {
		case ack := <-e.acks:
			if ack.Step == step {
				return ack, nil
			}
		case <-e.session.Done():
			return driver.Ack{}, e.session.Err()
		case <-ctx.Done():
			return driver.Ack{}, context.Cause(ctx)
		}
	}
}

// hear counts what is passed on: until the last message, and what comes within passingWait behind it.
func (e *exchange) hear(ctx context.Context, heard map[string]int) error {
	for {
		packet, err := nextPacket(e.reader)
		if timeout := net.Error(nil); heard[lastPayload] > 0 && errors.As(err, &timeout) && timeout.Timeout() {
			return nil
		}
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("%w: not all messages arrive: %s", context.Cause(ctx), allowPassing)
			}
			return err
		}
		if packet[0]>>4 != packets.PUBLISH {
			continue
		}
		for _, payload := range []string{repeatedPayload, strangePayload, lastPayload} {
			if bytes.HasSuffix(packet, []byte(payload)) {
				heard[payload]++
			}
		}
		if heard[lastPayload] == 1 {
			if err := e.conn.SetReadDeadline(time.Now().Add(passingWait)); err != nil {
				return err
			}
		}
	}
}
