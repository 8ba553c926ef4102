package handoff

import (
	"slices"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Acks processes the broker's answers, in the order in which they arrived.
func (m *Machine) Acks(now Now, acks []driver.Ack) *Effects {
	m.beginAt(now)
	m.resend = m.resend[:0]
	for _, a := range acks {
		if a.Slot < 1 || int(a.Slot) > int(m.ring) {
			continue
		}
		m.answered(now, a)
	}
	if len(m.resend) > 0 {
		m.queue = slices.Insert(m.queue, 0, m.resend...)
	}
	m.effects.Hurry = m.full() && m.releasesPressing()
	m.send(now)
	return &m.effects
}

// answered processes one answer. An answer that fits no message is ignored: it is not for us,
// or came twice.
func (m *Machine) answered(now Now, a driver.Ack) {
	msg := m.at(a.Slot)
	switch {
	case msg.state == releasing && a.Step == driver.Released:
		m.inFlight--
		m.poison.answered = true
		if a.Code == driver.CodeUnknownSlot && msg.releases == 1 && msg.job.Topic != "" {
			// The broker had the message, and has lost it before it was told to release it.
			m.forgotten(a.Slot)
			return
		}
		// Whatever the code is, the broker stores nothing under this slot any more.
		m.count(now, msg)
		m.endAndAnnounce(a.Slot, nil)
	case a.Step == driver.Released:
	case msg.state == received && msg.unsure && a.Step == driver.Received:
		m.answeredAgain(now, a, msg)
	case msg.state != sent || msg.batch.qos == 2 != (a.Step == driver.Received):
	case msg.batch.qos == 2 && (!a.Refused() || a.Code == driver.CodeInUse && msg.dup):
		// If we die before the journal knows, the message is sent again, in the same slot,
		// and the broker answers the same.
		msg.state = received
		m.accepted(now, msg)
		m.announce(msg.batch)
	case a.Code == driver.CodeQuotaExceeded:
		// The exchange is over, and the broker has stored nothing of it.
		m.inFlight--
		m.notEarly(msg)
		msg.attempted, msg.dup = false, false
		if msg.due {
			msg.state = queued
			m.resend = append(m.resend, a.Slot)
		} else {
			msg.state = held // Launch sends it
		}
		m.poison.answers()
		m.slowDown(now, a)
	case a.Refused():
		m.inFlight--
		m.poison.answers()
		m.effects.Refused++
		m.endAndAnnounce(a.Slot, &driver.Failure{Code: a.Code, Reason: a.Reason})
	default:
		m.inFlight--
		m.accepted(now, msg)
		m.endAndAnnounce(a.Slot, nil)
	}
}

// answeredAgain processes the answer to a message that was received over an earlier connection,
// and sent again to make sure that the broker still has it.
func (m *Machine) answeredAgain(now Now, a driver.Ack, msg *message) {
	m.poison.answers()
	switch {
	case !a.Refused() || a.Code == driver.CodeInUse:
		msg.unsure, msg.asking = false, false
		m.releaseIfReady(a.Slot)
	case a.Code == driver.CodeQuotaExceeded:
		m.inFlight--
		m.notEarly(msg)
		if msg.asking = msg.due; msg.due {
			m.resend = append(m.resend, a.Slot)
		}
		m.slowDown(now, a)
	default: // the broker has lost the message, and refuses it now
		m.inFlight--
		m.effects.Refused++
		m.endAndAnnounce(a.Slot, &driver.Failure{Code: a.Code, Reason: a.Reason})
	}
}

// forgotten handles a message that the broker had received, and did not know any more when it
// was to be released. A broker that passes messages on at PUBREL has lost this one.
func (m *Machine) forgotten(s driver.Slot) {
	m.effects.OutcomesUnknown++
	f := driver.Failure{Code: driver.CodeUnknownSlot, Reason: "outcome unknown: the broker forgot the message between receiving and releasing it"}
	if m.cfg.FailLost {
		f.Final, f.Reason = true, f.Reason+", and such jobs are set to fail"
	}
	m.endAndAnnounce(s, &f)
}

// accepted records that the broker has accepted a message. If its time has not come, it counts as
// published when it is released.
func (m *Machine) accepted(now Now, msg *message) {
	m.effects.Took = append(m.effects.Took, now.Local-msg.sentAt)
	if msg.due {
		m.count(now, msg)
	}
	m.pace.accepted(m.connection.Limits.InFlight)
	m.poison.answers()
}

// count counts a message as published, once.
func (m *Machine) count(now Now, msg *message) {
	if msg.counted || msg.job.Topic == "" {
		return
	}
	msg.counted = true
	m.effects.Published++
	m.effects.Late = append(m.effects.Late, now.Database.Sub(msg.job.FireAt))
	if span := msg.span(); span != nil {
		m.effects.Spans = append(m.effects.Spans, SpanEnd{Span: span})
	}
}

// slowDown records that the broker is over quota.
func (m *Machine) slowDown(now Now, a driver.Ack) {
	m.effects.Throttled++
	if rest := m.pace.over(now.Local, m.inFlight); rest > 0 {
		m.effects.Wake, m.effects.OverQuota = rest, a.Reason
	}
}
