package handoff

import (
	"errors"
	"slices"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Connect begins to send over a connection. Releases come first, to make room.
//
// A message that was received over an earlier connection, and never released, is sent again in
// the same slot. A broker that has it answers as before; a broker that was killed, and
// restarted with an older state, gets it again. Without that, such a broker would confirm the
// release of a message that it does not have, and the message would be lost. If PUBREL may have
// been sent already, this check is not possible: to send the message again could publish it
// twice.
func (m *Machine) Connect(now Now, c Connection) *Effects {
	m.beginAt(now)
	m.connection, m.connected, m.inFlight = c, true, 0
	var unsure []driver.Slot
	for _, b := range m.batches {
		for i := range b.kept {
			s := b.slot(i)
			msg := m.at(s)
			switch {
			case msg.state == releasing && (msg.releases > 0 || msg.job.Topic == ""):
				m.release(s)
				m.inFlight++
			case msg.state == releasing || msg.state == received && msg.releases == 0 && msg.job.Topic != "":
				msg.state, msg.unsure, msg.dup = received, true, true
				if msg.due { // else Stages, or Launch, asks
					msg.asking = true
					unsure = append(unsure, s)
				}
			case msg.state == received:
				m.inFlight++
			}
		}
	}
	m.queue = append(unsure, m.queue...)
	m.stageAll(now)
	m.send(now)
	m.effects.Capacity = true
	return &m.effects
}

// Fruitful reports whether the broker has answered anything over this connection.
func (m *Machine) Fruitful() bool { return m.poison.answered }

// Disconnect ends the connection, for a reason. unreleased are slots from Effects.Release for
// which PUBREL was certainly never sent. Messages that the broker has not answered are sent
// again over the next connection, before all others and in the same order.
func (m *Machine) Disconnect(why error, unreleased []driver.Slot) *Effects {
	m.begin()
	for _, s := range unreleased {
		if msg := m.at(s); msg.state == releasing && msg.releases > 0 {
			msg.releases--
		}
	}
	m.connected = false
	var unanswered []driver.Slot
	asked := 0 // messages that were sent again to make sure that the broker has them
	for _, b := range m.batches {
		for i := range b.kept {
			s := b.slot(i)
			msg := m.at(s)
			m.notEarly(msg)
			if msg.asking {
				asked++
				msg.asking = false
			}
			if msg.state != sent {
				continue
			}
			if b.qos == 0 {
				m.endAndAnnounce(s, &driver.Failure{Reason: "outcome unknown: the connection was lost while it was being sent, and at-most-once does not try again", Final: true})
				continue
			}
			msg.dup = true
			if !msg.due { // it is not certain that the next broker withholds it
				msg.state = held
				continue
			}
			msg.state = queued
			unanswered = append(unanswered, s)
		}
	}
	m.inFlight, m.staging = 0, nil
	m.queue = slices.DeleteFunc(m.queue, func(s driver.Slot) bool { return m.at(s).state == received }) // Connect finds them
	if cause := m.poison.ends(why, len(unanswered)+asked); cause != 0 {
		m.giveUp(cause, why)
		unanswered = slices.DeleteFunc(unanswered, func(s driver.Slot) bool { return s == cause })
	}
	if tooMany(why) && len(unanswered) > 1 {
		// The broker holds other slots than those that we began with, and does not say which
		// ones.
		unanswered = append(unanswered[1:], unanswered[0])
	}
	m.queue = append(unanswered, m.queue...)
	return &m.effects
}

// tooMany reports whether a connection ended because the broker held more messages than its
// Receive Maximum. With a Receive Maximum of 1, a recovery may begin with another message than
// the one that the broker holds.
func tooMany(why error) bool {
	var d *driver.DisconnectedError
	return errors.As(why, &d) && d.Code == driver.CodeReceiveMaximumExceeded
}

// SessionLost handles the loss of our session at the broker. The journal has begun this round,
// so that what it says about the QoS 2 batches is void.
func (m *Machine) SessionLost(round int64) *Effects {
	m.begin()
	var again, rest []driver.Slot
	for _, s := range m.queue {
		if msg := m.at(s); msg.batch.qos != 2 || !msg.attempted {
			rest = append(rest, s)
		}
	}
	for _, b := range m.batches {
		if b.qos != 2 || b.gone {
			continue
		}
		b.round, b.recorded.concluded, b.concluded = round, 0, 0
		for i := range b.failures {
			b.failures[i].withEnd = false
		}
		failed := 0 // how many places there are up to the last message that fails
		for i := range b.kept {
			switch msg := m.at(b.slot(i)); {
			case !msg.attempted || msg.state == ended:
			case !m.outcomeUnknown(b.slot(i)):
				failed = i + 1
			case msg.due:
				msg.state = queued
				again = append(again, b.slot(i))
			}
		}
		m.endBefore(b, failed)
	}
	m.queue = slices.DeleteFunc(append(again, rest...), func(s driver.Slot) bool { return m.at(s).state == ended })
	for _, b := range m.batches {
		if !b.gone {
			m.announce(b)
		}
	}
	return &m.effects
}

// endBefore ends the messages before a place of a batch. The journal records the progress of a
// batch from its front: if an earlier message were still to be sent, the journal could not
// record that those behind it have failed, and a recovery would send them again.
func (m *Machine) endBefore(b *Batch, place int) {
	for i := range place {
		switch s := b.slot(i); {
		case m.at(s).state == ended:
		case m.at(s).job.Topic == "": // its row is gone, or its job has failed before
			m.end(s, nil)
		default:
			m.end(s, &driver.Failure{Reason: "not accepted yet when the broker lost its session state; it is tried again on its own"})
		}
	}
}

// outcomeUnknown handles a message that the broker may have passed on, or lost together with
// its session. The message is sent as a new one, or it ends.
func (m *Machine) outcomeUnknown(s driver.Slot) (again bool) {
	msg := m.at(s)
	if msg.job.Topic == "" { // its row is gone, or its job has failed before
		m.end(s, nil)
		return false
	}
	if msg.withheld && msg.releases == 0 { // it has not passed it on, so it was never sent
		msg.state, msg.attempted, msg.dup, msg.unsure, msg.asking = held, false, false, false, false
		return true
	}
	m.effects.OutcomesUnknown++
	if m.cfg.FailLost {
		m.end(s, &driver.Failure{Reason: "outcome unknown: the broker lost its session state while the message was on its way, and such jobs are set to fail", Final: true})
		return false
	}
	msg.state, msg.attempted, msg.dup, msg.unsure, msg.asking, msg.releases = held, true, false, false, false, 0
	return true
}
