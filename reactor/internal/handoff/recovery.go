package handoff

import (
	"slices"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Early is a job that was recovered before its time.
type Early struct {
	Batch *Batch
	Place int
	Job   driver.Job
}

// Recover adds the batches that an earlier owner of the lane left in the journal, oldest first.
// The machine must be new. lost tells that the broker has no session to resume. Recover returns
// the jobs that are not due yet by the database's present clock: after a failover, that clock
// may be behind. The caller launches them at their time.
//
// Only messages within the owner's reach, counted from the first slot that is not concluded,
// may have reached the broker. They are sent again as duplicates. The others are sent as new: a
// broker may drop a duplicate of a message that it has never seen.
func (m *Machine) Recover(now Now, batches []driver.Batch, lost bool) (early []Early, e *Effects) {
	m.beginAt(now)
	for _, b := range batches {
		m.admit(b)
	}
	base := m.base()
	for _, b := range m.batches {
		for i := range b.jobs {
			s := b.slot(i)
			msg := m.at(s)
			recorded := b.qos == 2 && i < b.recorded.concluded
			waits := msg.job.FireAt > now.Database // also where its row is gone: the broker may have it
			msg.due = !waits
			switch doubt := recorded || m.ring.minus(s, base) < b.reach; {
			case !doubt:
			case b.qos == 0:
				// The promise is at most once, and the message may have been sent once already.
				m.end(s, &driver.Failure{Reason: "outcome unknown: the instance that claimed it stopped before it was settled, and at-most-once does not try again", Final: true})
			case b.qos == 2 && lost:
				m.outcomeUnknown(s)
			case recorded, b.qos == 2 && msg.job.Topic == "":
				// The broker has the message, or may have it if the job's row is gone. In both
				// cases the broker must free the slot before another message can use it. The
				// last owner may have released it already.
				msg.attempted, msg.state, msg.releases = true, received, 1
			default:
				msg.attempted, msg.dup = true, true
			}
			switch {
			case waits && (msg.state == held || msg.state == received):
				early = append(early, Early{b, i, msg.job})
			case msg.state == held:
				msg.state = queued
				m.queue = append(m.queue, s)
			case msg.state == received:
				msg.state = releasing
			}
		}
	}
	for _, b := range m.batches {
		if lost {
			b.recorded.concluded = 0
		}
		m.announce(b)
	}
	return early, &m.effects
}

// Superseded separates batches of a journal whose slots a later batch has taken. Their deletion
// was committed before the later claim, and a failover has brought them back: they have ended.
func Superseded(batches []driver.Batch) (live, ended []driver.Batch) {
	const all = ring(driver.LaneSlots)
	taken := map[driver.Slot]bool{}
	for i := len(batches) - 1; i >= 0; i-- {
		b, again := batches[i], false
		for place := range b.Jobs {
			again = again || taken[all.plus(b.FirstSlot, place)]
		}
		if again {
			ended = append(ended, b)
			continue
		}
		for place := range b.Jobs {
			taken[all.plus(b.FirstSlot, place)] = true
		}
		live = append(live, b)
	}
	slices.Reverse(live)
	return live, ended
}
