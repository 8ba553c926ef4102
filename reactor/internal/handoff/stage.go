package handoff

import (
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Staged release, at QoS 2. A broker may pass a message on when it receives PUBLISH, or when it
// receives PUBREL [MQTT 5, 4.3.3]. To one that is known to wait for PUBREL (Connection.Stages),
// messages are sent before their time, and recorded as received. When their time has come, nothing is
// left to be done but to release them:
//
//	          Admit             PUBREC          recorded            Launch
//	held ─────────────► sent ───────────► received ──────► received ───────► releasing
//	 ▲                    │                  │                │
//	 └────────────────────┴──────────────────┴────────────────┘
//	  connection lost: sent again when the next one is known to be alike, or at their time
//
// A message that is not due is in no queue, and is not released (message.due). If we die, the next
// owner waits for its time as well (Recover).
//
// What is due goes first, and always finds room in the window: a part of it is not used for staging.

const (
	// maxStaged is how long before its time a message may be sent. Claims are made later than that;
	// it is for jobs that were recovered before their time, as after a clock was set back.
	maxStaged = time.Second
	// maxStagedBytes is the largest payload that is staged, and maxEarlyBytes bounds those that
	// wait for their time: messages that are due would wait while they are sent.
	maxStagedBytes = 64 << 10
	maxEarlyBytes  = 1 << 20
)

// stageReserve is the part of a window that is for messages that are due.
func stageReserve(window int) int { return max(1, window/4) }

// Stage allows messages to be sent before their time over this connection. withholds tells that its
// broker was found to pass messages on when they are released.
func (m *Machine) Stage(now Now, withholds bool) *Effects {
	m.beginAt(now)
	if m.connected {
		m.connection.Stages, m.connection.Withholds = true, withholds
		m.staging = m.staging[:0]
		m.stageAll(now)
		m.send(now)
	}
	return &m.effects
}

// stageAll queues whatever may be staged.
func (m *Machine) stageAll(now Now) {
	for _, b := range m.batches {
		m.stage(now, b)
	}
}

// stage queues what may be staged of a batch.
func (m *Machine) stage(now Now, b *Batch) {
	limit := m.connection.Limits.InFlight
	if !m.connected || !m.connection.Stages || b.qos != 2 || b.gone || limit <= stageReserve(limit) {
		return
	}
	for i := range b.kept {
		if s := b.slot(i); m.at(s).stageable(now) {
			m.staging = append(m.staging, s)
		}
	}
}

// sendStaged sends a message before its time, if it is still to be.
func (m *Machine) sendStaged(now Now, s driver.Slot) outcome {
	msg := m.at(s)
	if !msg.stageable(now) {
		return taken
	}
	if m.isBeyondReach(s) {
		return beyondReach
	}
	packet := m.packet(s)
	if m.earlyBytes+len(packet.Payload) > maxEarlyBytes {
		return taken // it is sent at its time
	}
	if msg.state == received {
		msg.asking = true
	} else if m.check(packet) != nil {
		return taken // it fails at its time
	} else {
		msg.state = sent
	}
	m.publish(now, packet)
	return taken
}

// ask has a message sent again whose time has come, before it is released.
func (m *Machine) ask(s driver.Slot) {
	m.at(s).asking = true
	m.queue = append(m.queue, s)
}

// stagedPatience is how soon the journal should hear of a batch of which it should know nothing but
// messages that are before their time: soon enough for it to know by then. ok is false if there
// are others.
func (m *Machine) stagedPatience(b *Batch) (within time.Duration, ok bool) {
	if b.qos != 2 || b.recorded.concluded >= b.concluded || b.kept < b.recorded.kept || len(b.failures) > 0 {
		return 0, false
	}
	for i := b.recorded.concluded; i < b.concluded; i++ {
		if m.at(b.slot(i)).due {
			return 0, false
		}
	}
	ahead := m.at(b.slot(b.recorded.concluded)).job.FireAt.Sub(m.now.Database)
	return max(0, min(ahead/4, endPatience)), true
}

// notEarly records that the time of a message has come, or that it is not in flight any more.
func (m *Machine) notEarly(msg *message) {
	if msg.early {
		msg.early = false
		m.early--
		m.earlyBytes -= len(msg.job.Payload)
	}
}
