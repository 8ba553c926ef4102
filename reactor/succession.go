package reactor

import (
	"github.com/job-publisher/reactor/reactor/driver"
)

// What a lane takes over from the journal, and what it does when the broker has
// forgotten the session that the journal speaks of.

// waitingJob is a job that was recovered before its time.
type waitingJob struct {
	flying *flying
	i      int
	job    driver.Job
}

// recovered takes in what an earlier owner of the lane left in the journal, oldest first.
// lost tells that the broker has no session any more to resume. It returns the jobs whose
// time has not come, by the clock as it is now: a failover may have led to one that is
// behind.
//
// What may have reached the broker are the first slots that are not settled, as far as the
// owner's reach. They are sent again as duplicates; the others as what they are, new: a
// broker may drop a duplicate of a message that it has never seen.
func (l *lane) recovered(batches []driver.Batch, lost bool) (early []waitingJob) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range batches {
		l.take(b)
	}
	now, base := l.clock.Now(), l.base()
	for _, f := range l.batches {
		for i := range f.jobs {
			s := f.slot(i)
			fl := l.at(s)
			marked := f.qos == 2 && i < f.marked
			waits := fl.job.FireAt > now && fl.job.Topic != ""
			switch doubt := marked || s.Minus(base) < f.reach; {
			case !doubt:
			case f.qos == 0:
				// Promised at most once; and it may have been once already.
				l.end(s, &driver.Failure{Reason: "outcome unknown: the instance that claimed it stopped before it was settled, and at-most-once does not try again", Final: true})
			case f.qos == 2 && lost:
				l.outcomeUnknown(s)
			case marked, f.qos == 2 && fl.job.Topic == "":
				// The broker has it, or, its row gone, may have it: either way the slot must be
				// freed there before another message can use it. That may have been done.
				fl.attempted, fl.state, fl.releases = true, received, 1
			default:
				fl.attempted, fl.dup = true, true
			}
			switch {
			case waits && (fl.state == held || fl.state == received):
				early = append(early, waitingJob{f, i, fl.job})
			case fl.state == held:
				fl.state = ready
				l.queue = append(l.queue, s)
			case fl.state == received:
				fl.state = releasing
			}
		}
	}
	for _, f := range l.batches {
		if lost {
			f.marked = 0
		}
		l.report(f)
	}
	return early
}

// outcomeUnknown deals with a message that the broker may have passed on or lost,
// together with its session: it becomes one to be sent for the first time, or ends.
func (l *lane) outcomeUnknown(s driver.Slot) (again bool) {
	fl := l.at(s)
	if fl.job.Topic == "" { // its row gone, or the place of one that failed
		l.end(s, nil)
		return false
	}
	l.stats.outcomesUnknown.Add(1)
	if l.onLoss == Fail {
		l.end(s, &driver.Failure{Reason: "outcome unknown: the broker lost its session state while the message was on its way, and --on-session-loss is fail", Final: true})
		return false
	}
	fl.state, fl.attempted, fl.dup, fl.unsure, fl.releases = held, true, false, false, 0
	return true
}

// lose deals with a broker that has lost our session. The journal has been told (round)
// that what it says of the QoS 2 batches is void.
func (l *lane) lose(round int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var again, rest []driver.Slot
	for _, s := range l.queue {
		if fl := l.at(s); fl.flying.qos != 2 || !fl.attempted {
			rest = append(rest, s)
		}
	}
	for _, f := range l.batches {
		if f.qos != 2 || f.settled {
			continue
		}
		f.round, f.marked, f.front = round, 0, 0
		for i := range f.failures {
			f.failures[i].late = false
		}
		for i := range f.kept {
			switch fl := l.at(f.slot(i)); {
			case !fl.attempted || fl.state == ended:
			case fl.state == held: // recovered before its time: it is still to be launched
				fl.dup = false
			case l.outcomeUnknown(f.slot(i)):
				fl.state = ready
				again = append(again, f.slot(i))
			}
		}
	}
	l.queue = append(again, rest...)
	for _, f := range l.batches {
		if !f.settled {
			l.report(f)
		}
	}
}

// exposed reports whether anything depends on the broker's memory of our slots.
func (l *lane) exposed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.batches {
		if f.qos == 2 && !f.settled {
			return true
		}
	}
	return false
}
