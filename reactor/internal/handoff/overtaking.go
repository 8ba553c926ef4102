package handoff

import (
	"slices"

	"github.com/job-publisher/reactor/reactor/driver"
)

// At QoS 2 the journal records the progress of a batch from its front. A message that the broker
// received before another one of its batch is released only after that one. Messages are mostly
// sent in the order of their batch, but not always: the broker may be over quota for one, or the
// jobs may fall due in another order, as after their fire_at was changed and their lane was
// recovered. If such messages took the whole window, the one that they wait for could not be sent,
// and the lane would stand still. So they leave the last place of the window free, and where
// nothing else moves, the fronts are sent.

// overtakes reports whether a message of the same batch, before this one, has not been sent.
func (m *Machine) overtakes(s driver.Slot) bool {
	b := m.at(s).batch
	if b.qos < 2 {
		return false
	}
	for i := b.concluded; i < b.place(s); i++ {
		if m.at(b.slot(i)).state < sent {
			return true
		}
	}
	return false
}

// stalled reports whether nothing that is in flight will make room in the window: each message
// has been received, and waits for one before it.
func (m *Machine) stalled() bool {
	for _, b := range m.batches {
		if b.gone {
			continue
		}
		for i := range b.kept {
			switch msg := m.at(b.slot(i)); {
			case msg.state == sent, msg.state == releasing, msg.state == received && msg.due && i < b.concluded && !msg.unsure:
				return false
			}
		}
	}
	return true
}

// sendFronts sends the messages that others wait for, whatever the pace is.
func (m *Machine) sendFronts(now Now) {
	for _, b := range m.batches {
		for !b.gone && b.concluded < b.kept && m.inFlight < m.connection.Limits.InFlight && m.poison.maySend() {
			front := b.slot(b.concluded)
			if m.at(front).state != queued || m.sendDue(now, front) == beyondReach {
				break
			}
			m.queue = slices.DeleteFunc(m.queue, func(s driver.Slot) bool { return s == front })
			// If it has ended without being sent, the next one is the front.
		}
	}
}
