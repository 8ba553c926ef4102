package handoff

import (
	"slices"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The way of a batch out of the journal, and what the broker may be told then.

const (
	// endPatience is how long a batch may wait to leave the journal after its last PUBCOMP.
	// Nothing depends on it but its slots, while the news of another batch keep messages from
	// being released: it goes with the next of those, rather than being in their way.
	endPatience = 20 * time.Millisecond
	// fullPatience is how long the news of a lane that has as much to do as the broker takes
	// wait for more. It is a commit for each that this saves, and as everything is late in
	// such a lane nothing is late for it: the window is what bounds it (see releasesPressing).
	// To die meanwhile is to die before the settlement, only 8 ms of it longer: at QoS 2 the
	// messages are sent again in their slots, at QoS 1 they are published again.
	fullPatience = 8 * time.Millisecond
)

// announce tells the caller if there is news of a batch.
func (m *Machine) announce(b *Batch) {
	for b.concluded < b.kept && m.at(b.slot(b.concluded)).state.concluded() {
		b.concluded++
	}
	if b.hasNews() && !b.announced {
		b.announced = true
		m.effects.News = append(m.effects.News, News{b, m.patience(b)})
	}
}

// patience is how soon the journal should hear of a batch.
func (m *Machine) patience(b *Batch) time.Duration {
	within, staged := m.stagedPatience(b)
	switch {
	case !b.urgent():
		return endPatience
	case staged:
		return within
	case m.full() && !m.releasesPressing():
		return fullPatience
	}
	return 0
}

// full reports whether the broker takes hardly any more, of a window that is wide.
func (m *Machine) full() bool {
	limit := m.connection.Limits.InFlight
	return limit >= wideWindow && m.inFlight > limit/4*3
}

// releasesPressing reports whether a good part of the window is held by messages that wait
// for the journal to know them, so that they can be released.
func (m *Machine) releasesPressing() bool {
	waiting := 0
	for _, b := range m.batches {
		if b.qos == 2 {
			waiting += b.concluded - b.recorded.concluded
		}
	}
	return waiting > m.connection.Limits.InFlight/4
}

// Settlement is what the journal should say of a batch now; its Lease is for the caller to
// fill in. Later news are announced again.
func (m *Machine) Settlement(b *Batch) driver.Settlement {
	b.announced = false
	s := driver.Settlement{
		BatchID: b.id, Round: b.round, Token: b.token, Jobs: b.recorded.kept, Kept: b.kept, Done: b.done(),
	}
	if s.Done || b.qos == 2 {
		s.Concluded = b.concluded
		for _, f := range b.failures {
			if f.ripe(s.Concluded, s.Done) {
				s.Failures = append(s.Failures, f.Failure)
			}
		}
	}
	return s
}

// Settled follows up on a settlement that has been committed: what the broker has received
// is released, and the slots of batches that have left the journal are free. recorded tells
// whether the lane was still ours; if not, releasing would be wrong, for the new owner will
// send it again.
//
// If we die before the release, the journal says what the broker has received, and the
// recovery releases it.
func (m *Machine) Settled(now Now, b *Batch, s driver.Settlement, recorded bool) *Effects {
	m.beginAt(now)
	if !recorded {
		m.closing = true
		m.effects.NotOurs = true
		return &m.effects
	}
	if b.gone {
		return &m.effects
	}
	m.effects.Recorded = true
	b.recorded.kept = s.Kept
	b.failures = slices.DeleteFunc(b.failures, func(f failure) bool { return f.ripe(s.Concluded, s.Done) })
	if b.qos == 2 {
		for b.recorded.concluded < s.Concluded {
			b.recorded.concluded++
			m.releaseIfReady(b.slot(b.recorded.concluded - 1))
		}
	}
	if s.Done {
		b.gone = true
		for len(m.batches) > 0 && m.batches[0].gone {
			m.effects.InFlight -= m.batches[0].jobs
			m.batches[0] = nil
			m.batches = m.batches[1:]
		}
		m.effects.Capacity = true
	}
	if m.blocked {
		m.send(now)
	}
	return &m.effects
}
