package handoff

import (
	"fmt"

	"github.com/job-publisher/reactor/reactor/driver"
)

// This file judges the outcome of all jobs in a state of the world.

// heal lets a last instance take over and finish, with no more faults, and returns what is
// wrong at the end. Statements of the dead commit late, after the journal was read, or not at
// all.
func (w *world) heal(late bool) string {
	w = w.clone()
	w.connected = -1 // the last instance uses the client id now
	const last = 0   // the last instance needs a number; this one is free
	var statements []driver.Settlement
	for i := range w.in {
		if w.in[i].ours {
			statements = append(statements, w.in[i].statement...)
		}
		w.in[i] = instance{dead: true}
	}
	w.owner = last
	for range 3 { // after a late statement, the instance may find the lane lost, and begins again
		w.in[last] = instance{}
		w.connected, w.in[last].link = last, accepted
		w.confirm(last)
		w.settleAll(last)
		if w.in[last].link == reopened {
			w.attach(last)
		}
		if late {
			for _, s := range statements {
				w.record(s)
			}
			late = false
		}
		w.run(last)
		w.fallDue(last)
		if !w.in[last].dead {
			break
		}
	}
	return w.over()
}

// run lets an instance and the broker work until nothing is under way.
func (w *world) run(i int) {
	for in := &w.in[i]; !in.dead && len(in.sent)+len(in.answers)+len(in.news)+len(in.statement) > 0; {
		for len(in.sent) > 0 {
			w.arrive(i)
		}
		for !in.dead && len(in.answers) > 0 {
			a := in.answers[0]
			in.answers = in.answers[1:]
			w.carryOut(i, in.m.Acks(w.now(i), []driver.Ack{a}))
		}
		w.commit(i)
		w.settleAll(i)
	}
}

// fallDue makes an instance launch what is left, wait for its pause, and work on.
func (w *world) fallDue(i int) {
	in := &w.in[i]
	if in.dead {
		return
	}
	w.time = w.dueAt()
	for at := range in.m.batches {
		for int(in.waiting[at]) < in.m.batches[at].jobs {
			w.launch(i, at)
		}
	}
	w.run(i)
	if in.dead || !in.m.pace.resting(in.local) {
		return
	}
	in.local += maxRest
	w.carryOut(i, in.m.Resume(w.now(i)))
	w.run(i)
}

// over returns what is wrong when no step is left.
func (w *world) over() string {
	if w.wrong != "" {
		return w.wrong
	}
	for number := int8(1); number < w.next; number++ {
		if broken := w.broken(number); broken != "" {
			return broken
		}
	}
	if len(w.journal) > 0 {
		return "a batch stays in the journal"
	}
	for slot, job := range w.stored {
		if job != 0 {
			return fmt.Sprintf("job %d stays in slot %d of the broker", job, slot+1)
		}
	}
	return ""
}

// settleAll makes an instance settle all its news.
func (w *world) settleAll(i int) {
	if w.in[i].m == nil || w.in[i].dead {
		return
	}
	w.beginToSettle(i)
	w.commit(i)
}

// broken returns how the promise for a job was broken, when no step is left.
func (w *world) broken(number int8) string {
	job := w.jobs[number]
	n, qos := job.delivered, w.qosOf(number)
	lossless := w.losses == 0 || w.failLost
	switch {
	case qos == 2 && n > 1 && lossless, qos == 0 && n > 1:
	case n > 0 || job.failed > 0 || qos == 0:
		return ""
	case job.beyondHelp: // two faults at once: see fate
		return ""
	}
	return fmt.Sprintf("job %d was delivered %d times", number, n)
}

// judge returns what is wrong in a state, or would be wrong if all instances died now.
func (w *world) judge() string {
	if w.wrong != "" {
		return w.wrong
	}
	for number, job := range w.jobs {
		if job.delivered > 1 && w.qosOf(int8(number)) != 1 && (w.losses == 0 || w.failLost) {
			return fmt.Sprintf("job %d was delivered %d times", number, job.delivered)
		}
	}
	k := w.durableKey()
	broken, known := w.healed[k]
	if !known {
		if broken = w.heal(false); broken == "" {
			broken = w.heal(true)
		}
		w.healed[k] = broken
	}
	if broken != "" {
		return "when all die here, " + broken
	}
	if broken = w.finish(); broken != "" {
		return "when nothing more happens to anybody, " + broken
	}
	return ""
}

// finish lets the owner do what is left to do, with no more faults, and returns what is
// wrong then.
func (w *world) finish() string {
	owner := int(w.owner)
	if w.in[owner].dead {
		return ""
	}
	w = w.clone()
	in := &w.in[owner]
	for i := range w.in {
		if i != owner {
			w.in[i] = instance{dead: true}
		}
	}
	if in.link != confirmed {
		if in.statement != nil {
			w.commit(owner)
		}
		w.connected = int8(owner)
		if in.link != reopened {
			w.confirm(owner)
		}
		w.settleAll(owner)
		if in.link == reopened {
			w.attach(owner)
		}
	}
	if in.dead { // the owner has given the lane up: the next one does what is left
		return ""
	}
	w.run(owner)
	w.fallDue(owner)
	if in.dead {
		return ""
	}
	if !in.m.Idle() || in.m.bytes != 0 || len(in.m.queue) > 0 {
		return "the owner is not idle"
	}
	return w.over()
}
