package reactor

import (
	"slices"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The way of a lane's batches out of the journal, and what the broker may be told then.

// report tells the settler if there is news of a batch. The caller holds mu.
func (l *lane) report(f *flying) {
	for f.front < f.kept && l.at(f.slot(f.front)).state.concluded() {
		f.front++
	}
	if f.news() && !f.landed {
		f.landed = true
		l.settle(l, f, l.haste(f))
	}
}

const (
	// patience is how long a batch may wait to leave the journal after its last PUBCOMP.
	// Nothing hangs on it but its slots, while the mark of another batch keeps messages from
	// being released: it rides with the next of those, rather than being in its way.
	patience = 20 * time.Millisecond
	// company is how long the news of a lane that has as much to do as the broker takes
	// wait for more. It is a commit for each that this saves, and as everything is late in
	// such a lane nothing is late for it: the window is what bounds it (see marksPressing).
	// To die meanwhile is to die before the settlement, only 8 ms of it longer: at QoS 2
	// the messages are sent again in their slots, at QoS 1 they are published again.
	company = 8 * time.Millisecond
)

// haste is how soon the journal should hear of a batch. The caller holds mu.
func (l *lane) haste(f *flying) time.Duration {
	switch {
	case !f.urgent():
		return patience
	case l.full() && !l.marksPressing():
		return company
	}
	return 0
}

// full reports whether the broker takes hardly any more, of a window that is wide.
func (l *lane) full() bool {
	return l.limits.InFlight >= wideWindow && l.wire > l.limits.InFlight/4*3
}

// marksPressing reports whether a good part of the window is held by messages that wait to
// be marked, so that they can be released.
func (l *lane) marksPressing() bool {
	waiting := 0
	for _, f := range l.batches {
		if f.qos == 2 {
			waiting += f.front - f.marked
		}
	}
	return waiting > l.limits.InFlight/4
}

// settlement describes the batch's present state for the journal.
func (l *lane) settlement(f *flying) driver.Settlement {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.landed = false
	s := driver.Settlement{
		BatchID: f.batch, Round: f.round, Token: f.token, Lease: l.lease,
		Jobs: f.journalled, Kept: f.kept, Done: f.done(),
	}
	if s.Done || f.qos == 2 {
		s.Settled = f.front
		for _, failure := range f.failures {
			if failure.ripe(s.Settled, s.Done) {
				s.Failures = append(s.Failures, failure.Failure)
			}
		}
	}
	return s
}

// settled follows up on a settlement that has been committed: what the broker has
// received is released, and the slots of batches that have left the journal are free.
// held tells whether the lane was still ours; if not, releasing would be wrong, for
// the new owner will send it again.
//
// If we die before the release, the journal says what the broker has received, and the
// recovery releases it.
func (l *lane) settled(s driver.Settlement, f *flying, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !held {
		l.closing = true
		if l.abandon != nil {
			l.abandon()
		}
		return
	}
	if f.settled {
		return
	}
	f.journalled = s.Kept
	f.failures = slices.DeleteFunc(f.failures, func(p placedFailure) bool { return p.ripe(s.Settled, s.Done) })
	if f.qos == 2 {
		l.releaseFrom(f, s.Settled)
	}
	if s.Done {
		f.settled = true
		for len(l.batches) > 0 && l.batches[0].settled {
			l.stats.inFlight.Add(-int64(l.batches[0].jobs))
			l.batches[0] = nil
			l.batches = l.batches[1:]
		}
		l.capacity.set()
	}
	if l.blocked {
		l.pump()
	}
}

// releaseFrom releases what the journal has come to know as received: the batch's
// messages up to, not including, the one at end.
func (l *lane) releaseFrom(f *flying, end int) {
	l.freed = l.freed[:0]
	for ; f.marked < end; f.marked++ {
		s := f.slot(f.marked)
		if fl := l.at(s); fl.state == received && !fl.unsure {
			fl.state = releasing
			l.freed = append(l.freed, s)
		}
	}
	l.sendReleases()
}

// release releases one message that the journal knows as received. The caller holds mu.
func (l *lane) release(s driver.Slot) {
	l.at(s).state = releasing
	l.freed = append(l.freed[:0], s)
	l.sendReleases()
}

// sendReleases sends PUBREL for the slots in freed. Where there is no session, or it has
// ended, attach goes on.
func (l *lane) sendReleases() {
	if l.session == nil || len(l.freed) == 0 {
		return
	}
	if l.session.Release(l.freed) != nil {
		return // the session has ended, and none was sent
	}
	for _, s := range l.freed {
		l.at(s).releases++
	}
}
