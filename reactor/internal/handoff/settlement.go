package handoff

import (
	"slices"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// This file settles batches: it decides what the journal should record and when, and what may
// be released after that.

const (
	// endPatience is how long a batch may wait to leave the journal after its last PUBCOMP.
	// Only its slots depend on that, while messages wait to be released until the news of other
	// batches are recorded. So the end of the batch is recorded together with the next news,
	// and does not delay them.
	endPatience = 20 * time.Millisecond
	// fullPatience is how long the news of a lane wait for more if the lane is limited by the
	// broker. This saves commits. It does not make messages later, as the window is what limits
	// such a lane (see releasesPressing). A crash during this wait is like any crash before the
	// settlement, and the time before it is only 8 ms longer: at QoS 2 the messages are sent
	// again in their slots, at QoS 1 they are published again.
	fullPatience = 8 * time.Millisecond
)

// announce tells the caller if a batch has news.
func (m *Machine) announce(b *Batch) {
	for b.concluded < b.kept && m.at(b.slot(b.concluded)).state.concluded() {
		b.concluded++
	}
	if b.hasNews() && !b.announced {
		b.announced = true
		m.effects.News = append(m.effects.News, News{b, m.patience(b)})
	}
}

// patience is how long the news of a batch may wait.
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

// full reports whether the window is wide and nearly full.
func (m *Machine) full() bool {
	window := m.connection.Limits.InFlight - m.early
	return window >= wideWindow && m.inFlight-m.early > window/4*3
}

// releasesPressing reports whether a large part of the window is held by messages that the
// journal must record before they can be released.
func (m *Machine) releasesPressing() bool {
	waiting := 0
	for _, b := range m.batches {
		if b.qos == 2 {
			waiting += b.concluded - b.recorded.concluded
		}
	}
	return waiting > m.connection.Limits.InFlight/4
}

// Settlement returns what the journal should record about a batch now. The caller fills in its
// Lease. Later news are announced again.
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

// Settled processes a settlement that has been committed: it releases messages that the broker
// has received, and frees the slots of batches that have left the journal. recorded tells
// whether the lane was still ours. If it was not, a release would be wrong, as the new owner
// will send the messages again.
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
	if b.recorded.concluded == b.kept {
		m.effects.Capacity = true // what is claimed next need not wait for this batch (Holds)
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
