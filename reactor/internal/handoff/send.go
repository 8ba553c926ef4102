package handoff

import (
	"math"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

const (
	// wideWindow is the smallest wide window. When a wide window is nearly full, it is filled
	// by quarters, and its news wait for more: message by message, each would cost us and the
	// broker a write, a read and a wake-up. A narrow window is filled as soon as there is room.
	// Its quarter is not worth waiting for. Also, a broker may not send a small packet before
	// the last one is acknowledged (Nagle's algorithm, Mosquitto's default); it would wait for
	// our next message while we wait for its next answer, up to 40 ms each time.
	wideWindow = 128
	// MaxClaim is the most jobs of a claim.
	MaxClaim = 512
	// leastReach is a lower bound of the reach. With a smaller reach, due messages would wait
	// for those that are not due yet: a claim whose jobs fall due within the next milliseconds
	// may lie in between.
	leastReach = MaxClaim
)

// reach is how far beyond the first slot in doubt messages are sent. At QoS 2 the journal
// records what the broker has received as soon as possible. At QoS 1 a batch is settled only
// when all of it has ended, and the next batch is sent meanwhile.
func (m *Machine) reach() int {
	inFlight := m.connection.Limits.InFlight
	if m.cfg.QoS == 2 {
		return min(max(inFlight, leastReach), int(m.ring))
	}
	return min(max(2*inFlight, 2*MaxClaim), int(m.ring))
}

// base is the first slot in doubt: the journal does not say that the broker has its message.
func (m *Machine) base() driver.Slot {
	for _, b := range m.batches {
		if !b.gone && b.recorded.concluded < b.recorded.kept {
			return b.slot(b.recorded.concluded)
		}
	}
	return m.head
}

// send publishes the queued messages within the broker's limit, and then, while nothing that is due
// waits, the messages that can be staged.
//
// If we die before a message is sent, the journal has the job, and its recovery publishes it. If we
// die after, the recovery publishes it again: at QoS 2 in the same slot, by which the broker
// recognizes it; at QoS 1 it may arrive twice. At QoS 0 the recovery publishes nothing.
func (m *Machine) send(now Now) {
	if !m.connected || !now.Leased || m.pace.resting(now.Local) {
		return
	}
	limit := m.pace.limit(m.connection.Limits.InFlight)
	m.blocked, m.doubtful = false, m.base()
	// Without those that wait for their time, the window is narrower, and free of them.
	m.queue = m.sendSome(now, m.queue, limit, limit-m.early, m.sendDue)
	if len(m.queue) > 0 && m.stalled() {
		m.sendFronts(now)
	}
	if len(m.queue) == 0 && m.connection.Stages {
		most := limit - stageReserve(limit)
		m.staging = m.sendSome(now, m.staging, most, most, m.sendStaged)
	}
}

// outcome is the result of trying to send a message.
type outcome uint8

const (
	// taken: the message leaves its list. It was sent, has ended, or need not be sent any more.
	taken outcome = iota
	// beyondReach: the message stays in its list, and those within the reach go first.
	beyondReach
)

// sendSome sends messages of a list until so many are in flight, and returns the rest of it. If the
// window for them is wide, it is filled by quarters.
func (m *Machine) sendSome(now Now, list []driver.Slot, limit, window int, send func(Now, driver.Slot) outcome) []driver.Slot {
	if len(list) == 0 || window >= wideWindow && limit-m.inFlight < min(len(list), window/4) {
		return list // Acks goes on
	}
	n := 0
	m.beyond = m.beyond[:0]
	for n < len(list) && m.inFlight < limit && m.poison.maySend() {
		s := list[n]
		if m.inFlight+1 >= m.connection.Limits.InFlight && m.overtakes(s) {
			break // the last place is kept for those before it
		}
		n++
		if send(now, s) == beyondReach {
			m.beyond = append(m.beyond, s)
		}
	}
	m.blocked = m.blocked || len(m.beyond) > 0
	rest := append(list[:0], m.beyond...)
	return append(rest, list[n:]...)
}

// sendDue sends a message whose time has come.
func (m *Machine) sendDue(now Now, s driver.Slot) outcome {
	msg := m.at(s)
	if msg.job.Topic == "" { // its row was deleted after the claim
		m.endAndAnnounce(s, nil)
		return taken
	}
	// The reasons name no instants, which the rows have: so that all that ended alike have the same one.
	if msg.job.Expires && msg.job.ExpiresAt < now.Database && !msg.attempted {
		m.endAndAnnounce(s, &driver.Failure{Reason: "expired before it could be published", Final: true, State: driver.Expired})
		return taken
	}
	if msg.job.LeftOut && !msg.attempted {
		m.endAndAnnounce(s, &driver.Failure{Reason: "missed: it was late, and its schedule leaves out what is late (catch_up = skip)", Final: true, State: driver.Missed})
		return taken
	}
	if most := m.cfg.MaxLateness; most > 0 && !msg.attempted && now.Database.Sub(msg.job.FireAt) > most {
		m.endAndAnnounce(s, &driver.Failure{Reason: "missed: it was due more than " + most.String() + " before it could be published", Final: true, State: driver.Missed})
		return taken
	}
	if m.isBeyondReach(s) {
		return beyondReach
	}
	if msg.state == received { // it is asked about; it was sendable before
		m.publish(now, m.packet(s))
	} else if packet, err := m.sendable(s); err != nil {
		m.endAndAnnounce(s, &driver.Failure{Reason: err.Error(), Final: true})
	} else {
		msg.state = sent
		m.publish(now, packet)
	}
	return taken
}

func (m *Machine) isBeyondReach(s driver.Slot) bool {
	msg := m.at(s)
	return msg.state != received && !msg.attempted && m.ring.minus(s, m.doubtful) >= msg.batch.reach
}

func (m *Machine) packet(s driver.Slot) driver.Message {
	msg := m.at(s)
	packet := driver.Message{
		Slot: s, JobID: msg.job.ID, Topic: msg.job.Topic, Payload: msg.job.Payload, QoS: msg.batch.qos,
		Properties: msg.job.Properties, Dup: msg.dup,
	}
	if msg.job.Expires {
		packet.Expiry = secondsLeft(msg.job.ExpiresAt.Sub(m.now.Database))
	}
	return packet
}

// secondsLeft rounds up: a message must not expire at the broker before its time.
func secondsLeft(left time.Duration) uint32 {
	seconds := left / time.Second
	if left%time.Second > 0 {
		seconds++
	}
	return uint32(min(max(1, seconds), math.MaxUint32))
}

func (m *Machine) publish(now Now, packet driver.Message) {
	msg := m.at(packet.Slot)
	msg.withheld = m.connection.Withholds && (msg.withheld || !msg.attempted)
	msg.attempted, msg.sentAt = true, now.Local
	m.inFlight++
	if !msg.due && !msg.early {
		msg.early = true
		m.early++
		m.earlyBytes += len(packet.Payload)
	}
	if msg.due {
		m.effects.Due = append(m.effects.Due, msg.job.FireAt)
	}
	m.poison.sends(packet.Slot)
	m.effects.Publish = append(m.effects.Publish, packet)
}

func (m *Machine) check(packet driver.Message) error {
	if m.connection.Check == nil {
		return nil
	}
	return m.connection.Check(packet)
}

// sendable returns the message as it can be sent, or why it never can be. If only what its span has
// added makes it too large for the broker, it is sent as the job was, and the span is dropped.
func (m *Machine) sendable(s driver.Slot) (driver.Message, error) {
	packet := m.packet(s)
	err := m.check(packet)
	if err == nil || m.at(s).span() == nil {
		return packet, err
	}
	packet.Properties = packet.Properties.Trace.Untraced
	if m.check(packet) != nil {
		return packet, err
	}
	m.at(s).job.Properties = packet.Properties
	return packet, nil
}

// release sends PUBREL for a message that the journal knows as received. Without a connection,
// the next Connect does.
func (m *Machine) release(s driver.Slot) {
	msg := m.at(s)
	msg.state = releasing
	if m.connected {
		msg.releases++
		m.effects.Due = append(m.effects.Due, msg.job.FireAt)
		m.effects.Release = append(m.effects.Release, s)
	}
}

// releaseIfReady releases a message that the journal knows as received, but not before the job
// is due, and not before the broker has confirmed that it still has the message. What was recovered
// without its row is released whatever the journal says (Recover): it takes up the window in which
// those before it are to be sent.
//
// Where the next owner may be at another broker, a release without the lease could publish a message a second
// time. It waits for the lease (Resume): to end the connection instead would have all that is in flight sent again.
func (m *Machine) releaseIfReady(s driver.Slot) {
	msg := m.at(s)
	known := msg.batch.place(s) < msg.batch.recorded.concluded || msg.job.Topic == "" && msg.releases > 0
	ready := msg.state == received && msg.due && !msg.unsure && known
	switch {
	case !ready:
	case m.connected && m.connection.Limits.OtherBrokers && !m.now.Leased:
		m.unreleased = true
	default:
		m.release(s)
	}
}

// releaseAll releases what waits for the lease.
func (m *Machine) releaseAll() {
	m.unreleased = false
	for _, b := range m.batches {
		if b.gone {
			continue
		}
		for i := range b.kept {
			m.releaseIfReady(b.slot(i))
		}
	}
}

func (m *Machine) endAndAnnounce(s driver.Slot, f *driver.Failure) {
	m.end(s, f)
	m.announce(m.at(s).batch)
}

// end concludes the message in a slot, as published or failed.
func (m *Machine) end(s driver.Slot, f *driver.Failure) {
	msg := m.at(s)
	if f != nil {
		m.fail(s, *f)
	}
	m.notEarly(msg)
	msg.state = ended
	m.forget(msg)
	msg.batch.ended++
}

// fail records that the message in a slot is not published.
func (m *Machine) fail(s driver.Slot, f driver.Failure) {
	msg := m.at(s)
	b, place := msg.batch, msg.batch.place(s)
	f.JobID, f.Topic = msg.job.ID, msg.job.Topic
	b.failures = append(b.failures, failure{place, b.qos == 2 && place < b.concluded, f})
	if span := msg.span(); span != nil && !msg.counted { // else it has ended when the broker accepted the message
		m.effects.Spans = append(m.effects.Spans, SpanEnd{span, true, f})
	}
}
