package handoff

import (
	"fmt"
	"slices"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// world is a state of the whole model. Jobs are numbered from 1.
type world struct {
	*model
	owner, next, batches     int8 // of the lane, in the database; the next job; batches so far
	drops, rollbacks, losses int8 // that there have been
	quotas, setBacks         int8 // that there have been
	time                     int8 // of the database: 0, or 1, when all jobs are due
	journal                  []row
	stored                   []int8 // at the broker, by slot - 1: the job stored under the slot
	sessionLost              bool   // the broker has no session of the lane
	atPublish                bool   // it passes messages on when it stores them
	connected                int8   // whose connection the broker serves; -1: nobody's
	jobs                     []fate // by number
	in                       []instance
	wrong                    string // the first violation that the broker has seen
}

// fate of a job.
type fate struct {
	delivered, failed int8
	// forgotten: the broker had received it, and has lost it. If PUBREL may have been sent
	// before, by the same owner or by one who is dead, nobody may send it again: nobody can
	// prevent the loss.
	forgotten, beyondHelp bool
}

// row is a batch in the journal.
type row struct {
	id, first, job  int8 // its first slot, and the number of its first job
	concluded, kept int8
	round           int8
}

// instance is one instance's memory, connection, and statement under way.
type instance struct {
	dead      bool
	link      link
	m         *Machine // nil before it has read the journal
	sent      []packet // on their way to the broker
	answers   []driver.Ack
	news      []int8              // batches
	waiting   []int8              // of batches, that are to be launched: their next place
	local     time.Duration       // its monotonic clock
	statement []driver.Settlement // that has begun; nil: there is none
	ours      bool                // whether the statement found the lane to be ours when it began
}

type link uint8

const (
	offline   link = iota
	accepted       // CONNACK is in, the lease is not confirmed
	reopened       // the journal has begun a new round, as the session was lost
	confirmed      // may send
)

// packet is PUBLISH, or PUBREL where job is 0.
type packet struct {
	slot driver.Slot
	job  int8
	qos  byte
	dup  bool
}

func (w *world) clone() *world {
	to := *w
	to.journal, to.stored, to.jobs = slices.Clone(w.journal), slices.Clone(w.stored), slices.Clone(w.jobs)
	to.in = slices.Clone(w.in)
	for i := range to.in {
		in := &to.in[i]
		in.sent, in.answers, in.news, in.waiting = slices.Clone(in.sent), slices.Clone(in.answers), slices.Clone(in.news), slices.Clone(in.waiting)
		in.statement = slices.Clone(in.statement)
		if in.m != nil {
			in.m = in.m.clone()
		}
	}
	return &to
}

// step is one thing that can happen next.
type step struct {
	name string
	to   *world
}

// steps lists everything that can happen in a state.
func (w *world) steps() []step {
	var list []step
	can := func(name string, change func(*world)) {
		to := w.clone()
		change(to)
		list = append(list, step{name, to})
	}
	for i := range w.in {
		w.instanceSteps(i, can)
		if w.in[i].statement != nil {
			can(fmt.Sprint("the statement of ", i, " commits"), func(to *world) { to.commit(i) })
		}
		if w.connected != int8(i) {
			continue
		}
		if len(w.in[i].sent) > 0 {
			can(fmt.Sprint("the broker takes a packet of ", i), func(to *world) { to.arrive(i) })
			if p := w.in[i].sent[0]; p.job > 0 && p.qos > 0 && w.stored[p.slot-1] == 0 && int(w.quotas) < w.model.quotas {
				can(fmt.Sprint("the broker is over quota for a packet of ", i), func(to *world) { to.refuse(i) })
			}
		}
		if int(w.drops) < w.model.drops {
			can(fmt.Sprint("connection lost by ", i), func(to *world) {
				to.drops++
				to.disconnect(i, errHangUp, false)
			})
			can(fmt.Sprint("connection lost by ", i, ", which knows what has not left"), func(to *world) {
				to.drops++
				to.disconnect(i, errHangUp, true)
			})
		}
	}
	if int(w.rollbacks) < w.model.rollbacks {
		can("the broker is back with an older state", func(to *world) { to.rollBack() })
	}
	if int(w.losses) < w.model.losses {
		can("the broker loses the session", func(to *world) { to.loseSession() })
	}
	if w.time < w.dueAt() {
		can("the jobs fall due", func(to *world) { to.time = to.dueAt() })
	} else if int(w.setBacks) < w.model.setBacks {
		can("the clock is set back", func(to *world) {
			to.setBacks++
			to.time = 0
		})
	}
	if int(w.owner)+1 < w.instances {
		// The owner may be dead, stopped or slow: nobody can tell which, not even the owner.
		can(fmt.Sprint("lane taken over from ", w.owner), func(to *world) { to.owner++ })
	}
	return list
}

// instanceSteps are the steps of a live instance. The orders of events include those in which
// it does nothing for any length of time.
func (w *world) instanceSteps(i int, can func(string, func(*world))) {
	in := &w.in[i]
	if in.dead || int(w.owner) < i { // this instance has not started yet
		return
	}
	can(fmt.Sprint("kill -9 of ", i), func(to *world) {
		// Its memory is gone; its statement may still commit. Packets that the broker takes
		// after its death need no step of their own: they could as well arrive before it, as
		// its connection ends before the next owner reads the journal.
		if int(to.connected) == i {
			to.connected = -1
		}
		to.in[i] = instance{dead: true, statement: to.in[i].statement, ours: to.in[i].ours}
	})
	switch in.link {
	case offline:
		can(fmt.Sprint(i, " connects"), func(to *world) {
			if to.connected >= 0 {
				to.disconnect(int(to.connected), driver.ErrSessionTakenOver, false) // the client id is the same
			}
			to.connected, to.in[i].link = int8(i), accepted
		})
	case accepted:
		if in.statement == nil || !w.sessionLost { // reopening waits for its turn
			can(fmt.Sprint(i, " looks at its lease"), func(to *world) { to.confirm(i) })
		}
	case reopened:
		if !in.m.HasNews() {
			can(fmt.Sprint(i, " marks its session"), func(to *world) { to.attach(i) })
		}
	}
	if in.link == confirmed && len(in.answers) > 0 {
		can(fmt.Sprint(i, " takes an answer"), func(to *world) {
			a := to.in[i].answers[0]
			to.in[i].answers = to.in[i].answers[1:]
			to.carryOut(i, to.in[i].m.Acks(to.now(i), []driver.Ack{a}))
		})
	}
	if in.m == nil {
		return
	}
	if n := min(w.claim, w.model.jobs-int(w.next)+1); n > 0 && int(w.owner) == i {
		if _, _, ok := in.m.Room(n); ok {
			can(fmt.Sprint(i, " claims"), func(to *world) { to.claimJobs(i, n) })
		}
	}
	if w.stages && !w.atPublish && in.link == confirmed && !in.m.connection.Stages {
		can(fmt.Sprint(i, " learns that messages can be staged"), func(to *world) {
			to.carryOut(i, to.in[i].m.Stage(to.now(i), true))
		})
	}
	if in.m.pace.resting(in.local) {
		can(fmt.Sprint(i, " has rested"), func(to *world) {
			in := &to.in[i]
			in.local += maxRest
			to.carryOut(i, in.m.Resume(to.now(i)))
		})
	}
	for at, b := range in.m.batches {
		if w.time < w.dueAt() || b.gone || at >= len(in.waiting) || int(in.waiting[at]) >= b.jobs {
			continue
		}
		can(fmt.Sprint(i, " launches a job of batch ", b.id), func(to *world) {
			to.launch(i, at)
		})
	}
	if len(in.news) > 0 && in.statement == nil {
		can(fmt.Sprint(i, " settles"), func(to *world) { to.beginToSettle(i) })
	}
}

// launch launches the next job of a batch.
func (w *world) launch(i, batch int) {
	in := &w.in[i]
	place := int(in.waiting[batch])
	in.waiting[batch]++
	w.carryOut(i, in.m.Launch(w.now(i), in.m.batches[batch], place, place+1))
}

// now is the present time of an instance.
func (w *world) now(i int) Now {
	return Now{Local: w.in[i].local, Database: driver.DBTime(w.time), Leased: true}
}

// dueAt is when all jobs are due.
func (w *world) dueAt() int8 {
	if w.timed {
		return 1
	}
	return 0
}

// confirm makes an instance confirm its lease, and begin to send if the lane is still its own.
// Before that a new owner reads the journal; if the broker has no session any more, the journal
// begins a new round. All that is known is settled before the new session is marked, as whoever
// finds the mark sends what the journal lists.
func (w *world) confirm(i int) {
	in := &w.in[i]
	if int(w.owner) != i && !(w.trustsOldLease && in.m != nil) {
		w.leave(i)
		return
	}
	lost := w.sessionLost && w.qos == 2
	if lost {
		for at := range w.journal {
			w.journal[at].round++
			w.journal[at].concluded = 0
		}
	}
	in.link = reopened
	switch {
	case in.m == nil:
		if len(w.journal) == 0 {
			clear(w.stored) // no batch depends on the session, so a new one is begun
		}
		in.m = w.newMachine()
		for _, r := range w.journal {
			for place := range r.concluded { // its last owner may have released it
				job := &w.jobs[r.job+place]
				job.beyondHelp = job.beyondHelp || job.forgotten
			}
		}
		early, e := in.m.Recover(w.now(i), w.read(), lost)
		in.waiting = nil
		for _, b := range in.m.batches {
			next := int8(b.jobs)
			if w.time < w.dueAt() {
				next = 0
			}
			in.waiting = append(in.waiting, next)
			for place := int(next); place < b.jobs && w.wrong == ""; place++ {
				if b.place(b.slot(place)) != place || !slices.ContainsFunc(early, func(e Early) bool { return e.Batch == b && e.Place == place }) && in.m.at(b.slot(place)).state != ended {
					w.wrong = fmt.Sprintf("job %d of batch %d is recovered, and nobody will launch it", place+1, b.id)
				}
			}
		}
		w.carryOut(i, e)
	case lost:
		w.carryOut(i, in.m.SessionLost(int64(w.round())))
	}
	if !lost {
		w.attach(i)
	}
}

// attach makes an instance begin to send.
func (w *world) attach(i int) {
	w.sessionLost, w.in[i].link = false, confirmed
	w.carryOut(i, w.in[i].m.Connect(w.now(i), w.connection()))
}

func (w *world) newMachine() *Machine {
	return New(Config{QoS: w.qos, FailLost: w.failLost, Slots: w.slots})
}

func (w *world) connection() Connection {
	return Connection{Limits: driver.Limits{InFlight: w.slots, QoS: 2}}
}

func (w *world) round() int8 {
	if len(w.journal) == 0 {
		return 1
	}
	return w.journal[0].round
}

// read returns the content of the journal.
func (w *world) read() []driver.Batch {
	var list []driver.Batch
	for _, r := range w.journal {
		b := driver.Batch{
			ID: int64(r.id), Round: int64(r.round), QoS: w.qosOf(r.job), FirstSlot: driver.Slot(r.first),
			Concluded: int(r.concluded), Reach: w.reach,
		}
		for place := range r.kept {
			b.Jobs = append(b.Jobs, w.job(r.job+place))
		}
		list = append(list, b)
	}
	return list
}

func (w *world) job(number int8) driver.Job {
	return driver.Job{ID: int64(number), Topic: "t", FireAt: driver.DBTime(w.dueAt())}
}

func (w *world) claimJobs(i, n int) {
	in := &w.in[i]
	first, _, _ := in.m.Room(n)
	w.batches++
	r := row{id: w.batches, first: int8(first), job: w.next, kept: int8(n), round: w.round()}
	w.journal = append(w.journal, r)
	w.next += int8(n)
	list := w.read()
	b, e := in.m.Admit(w.now(i), list[len(list)-1])
	w.carryOut(i, e)
	if w.apart || w.time < w.dueAt() {
		in.waiting = append(in.waiting, 0)
		return
	}
	in.waiting = append(in.waiting, int8(n))
	w.carryOut(i, in.m.Launch(w.now(i), b, 0, n))
}

// carryOut carries out a machine's effects.
func (w *world) carryOut(i int, e *Effects) {
	in := &w.in[i]
	for _, s := range e.Release {
		w.checkTime(i, s)
		in.sent = append(in.sent, packet{slot: s})
	}
	for _, p := range e.Publish {
		if !w.in[i].m.connection.Stages {
			w.checkTime(i, p.Slot)
		}
		in.sent = append(in.sent, packet{slot: p.Slot, job: int8(p.JobID), qos: p.QoS, dup: p.Dup})
		if p.QoS == 0 { // its only answer is that it was written
			in.answers = append(in.answers, driver.Ack{Slot: p.Slot})
		}
	}
	for _, n := range e.News {
		in.news = append(in.news, int8(n.Batch.id))
	}
	if e.NotOurs {
		w.leave(i)
		return
	}
	for in.m != nil && len(in.waiting) > len(in.m.batches) { // the first ones are gone
		in.waiting = in.waiting[1:]
	}
}

// checkTime checks that an instance sends nothing before its time: it has launched it, or has
// recovered it when it was due.
func (w *world) checkTime(i int, s driver.Slot) {
	if w.time >= w.dueAt() || w.wrong != "" {
		return
	}
	in := &w.in[i]
	b := in.m.at(s).batch
	if at := slices.Index(in.m.batches, b); at >= 0 && b.place(s) >= int(in.waiting[at]) {
		w.wrong = fmt.Sprintf("slot %d is sent before its time", s)
	}
}

// commit makes a statement commit, whoever owns the lane by then.
func (w *world) commit(i int) {
	in := &w.in[i]
	statement := in.statement
	in.statement = nil
	for _, s := range statement {
		recorded := in.ours && w.record(s)
		if in.m == nil || in.dead {
			continue
		}
		if b := in.m.find(int8(s.BatchID)); b != nil {
			w.carryOut(i, in.m.Settled(w.now(i), b, s, recorded))
		}
	}
}

// beginToSettle makes a statement begin, with all news.
func (w *world) beginToSettle(i int) {
	in := &w.in[i]
	in.ours = int(w.owner) == i
	for _, id := range in.news {
		if b := in.m.find(id); b != nil {
			in.statement = append(in.statement, in.m.Settlement(b))
		}
	}
	in.news = nil
}

// record writes a settlement into the journal.
func (w *world) record(s driver.Settlement) (recorded bool) {
	at := slices.IndexFunc(w.journal, func(r row) bool { return r.id == int8(s.BatchID) && r.round == int8(s.Round) })
	if at < 0 {
		return s.Done
	}
	for _, f := range s.Failures {
		w.jobs[f.JobID].failed++
	}
	r := &w.journal[at]
	if s.Done {
		w.journal = slices.Delete(w.journal, at, at+1)
		return true
	}
	r.concluded, r.kept = max(r.concluded, int8(s.Concluded)), min(r.kept, int8(s.Kept))
	return true
}

// arrive makes the broker process the next packet of a connection.
func (w *world) arrive(i int) {
	in := &w.in[i]
	p := in.sent[0]
	in.sent = slices.Clone(in.sent[1:])
	stored := &w.stored[p.slot-1]
	answer := driver.Ack{Slot: p.slot}
	switch {
	case p.job == 0: // PUBREL
		answer.Step = driver.Released
		if *stored == 0 {
			if w.tells {
				answer.Code = driver.CodeUnknownSlot
			}
			break
		}
		if !w.atPublish {
			w.deliver(*stored)
		}
		*stored = 0
	case p.qos < 2:
		w.deliver(p.job)
		if p.qos == 0 {
			return
		}
	default: // PUBLISH; of a slot in use it is a repetition
		answer.Step = driver.Received
		if *stored != 0 && !p.dup && w.wrong == "" {
			w.wrong = fmt.Sprintf("job %d is sent as new under slot %d, which the broker keeps for job %d", p.job, p.slot, *stored)
		}
		if *stored == 0 {
			*stored, w.jobs[p.job].forgotten = p.job, false
			if w.atPublish {
				w.deliver(p.job)
			}
		}
	}
	if !in.dead {
		in.answers = append(in.answers, answer)
	}
}

// deliver makes the broker pass a job on.
func (w *world) deliver(number int8) {
	w.jobs[number].delivered++
	if w.time < w.dueAt() && w.setBacks == 0 && w.wrong == "" {
		w.wrong = fmt.Sprintf("job %d is delivered before its time", number)
	}
}

// refuse makes the broker refuse the next packet of a connection because of its quota.
func (w *world) refuse(i int) {
	w.quotas++
	in := &w.in[i]
	p := in.sent[0]
	in.sent = slices.Clone(in.sent[1:])
	answer := driver.Ack{Slot: p.slot, Code: driver.CodeQuotaExceeded}
	if p.qos == 2 {
		answer.Step = driver.Received
	}
	in.answers = append(in.answers, answer)
}

// disconnect ends a connection: what is on its way is lost. knows tells that the instance
// knows which releases have not left.
func (w *world) disconnect(i int, why error, knows bool) {
	in := &w.in[i]
	var unreleased []driver.Slot
	for _, p := range in.sent {
		if knows && p.job == 0 {
			unreleased = append(unreleased, p.slot)
		}
	}
	attached := in.link == confirmed
	in.link, in.sent, in.answers = offline, nil, nil
	w.connected = -1
	if in.m != nil && attached {
		w.carryOut(i, in.m.Disconnect(why, unreleased))
	}
}

// rollBack makes the broker forget messages that it has received and that were not released.
func (w *world) rollBack() {
	w.rollbacks++
	w.atPublish = w.atPublish || w.upgrades
	if w.connected >= 0 {
		w.disconnect(int(w.connected), errHangUp, false)
	}
	for slot, number := range w.stored {
		if number == 0 {
			continue
		}
		job := &w.jobs[number]
		w.stored[slot], job.forgotten = 0, true
		for i := range w.in {
			if m := w.in[i].m; m != nil && !w.in[i].dead {
				msg := m.at(driver.Slot(slot + 1))
				job.beyondHelp = job.beyondHelp || msg.job.ID == int64(number) && msg.releases > 0
			}
		}
	}
}

// loseSession makes the broker lose the lane's session.
func (w *world) loseSession() {
	w.losses++
	w.atPublish = w.atPublish || w.upgrades
	if w.connected >= 0 {
		w.disconnect(int(w.connected), errHangUp, false)
	}
	clear(w.stored)
	w.sessionLost = true
}

// leave makes an instance give the lane up, as it does when it finds that the lane is lost.
func (w *world) leave(i int) {
	if int(w.connected) == i {
		w.connected = -1
	}
	w.in[i] = instance{dead: true, statement: w.in[i].statement, ours: w.in[i].ours}
}
