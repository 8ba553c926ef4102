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

// Recover takes in what an earlier owner of the lane left in the journal, oldest first; the
// machine must be new. lost tells that the broker has no session any more to resume. It
// returns the jobs whose time has not come, by the database's clock as it is now: a failover
// may have led to one that is behind. They are to be launched at their time.
//
// What may have reached the broker are the first slots that are not concluded, as far as the
// owner's reach. They are sent again as duplicates, the others as what they are, new: a
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
				// Promised at most once; and it may have been once already.
				m.end(s, &driver.Failure{Reason: "outcome unknown: the instance that claimed it stopped before it was settled, and at-most-once does not try again", Final: true})
			case b.qos == 2 && lost:
				m.outcomeUnknown(s)
			case recorded, b.qos == 2 && msg.job.Topic == "":
				// The broker has it, or, its row gone, may have it: either way the slot must be
				// freed there before another message can use it. That may have been done.
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

// Superseded tells batches of a journal apart whose slots a later one has taken. Their
// deletion was committed before that, and a failover has brought them back: they have ended.
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
