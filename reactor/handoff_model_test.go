package reactor

import (
	"fmt"
	"slices"
)

// A model of the hand-off at QoS 2, small enough to look at every order of events: one
// lane, a few slots, instances that own it one after the other and don't know when they
// have lost it, a broker by the book [MQTT 5, 4.3.3], and a network and a database in
// which everything takes time.
//
// What is atomic here is atomic there: a claim and a take-over lock the same row; a
// statement that settles looks at the owner when it begins, and commits later, whatever
// has become of owner and process meanwhile; the broker takes one packet at a time.
//
// The state is a comparable value, so that a map remembers what has been explored. A job
// is a number from 1, and stands for its batch too: each claim takes one.

const (
	modelSlots     = 2
	modelJobs      = 3
	modelInstances = 3
)

// modelRules is what is explored, and how the protocol is broken for a test.
type modelRules struct {
	slots, jobs, instances int // at most the constants above
	drops                  int // connections lost, at any moment
	// rollbacks: the broker is killed, and comes back with a state from before it had what it
	// has, its sessions included.
	rollbacks int
	// deliverAtPublish: the broker passes a message on when it stores it, as MQTT allows,
	// and not when it is released.
	deliverAtPublish bool

	// Mutations.
	releaseBeforeCommit bool // PUBREL as soon as the PUBREC is in
	reuseBeforePubcomp  bool // a slot is taken again once its PUBREL is sent
	deleteBeforePubcomp bool // and the batch leaves the journal then
	trustOldLease       bool // the lease is not looked at again after CONNACK
	notSentAgain        bool // PUBREL over a new connection, for what was received over an old one
}

// modelState is everything there is.
type modelState struct {
	owner     int8 // of the lane, in the database
	next      int8 // the job that will be claimed next
	drops     int8
	rollbacks int8
	// forgotten jobs were received by the broker, and it has lost them. Of those some are
	// beyond help: PUBREL may have been sent before, by the same owner or by one who is dead,
	// so nobody may send them again.
	forgotten, beyondHelp [modelJobs + 1]bool

	journal   [modelJobs + 1]modelRow
	stored    [modelSlots]int8 // at the broker: the job kept under a slot
	delivered [modelJobs + 1]int8
	sureOfAll bool // the mutation notSentAgain
	connected int8 // whose connection the broker serves; -1: nobody's
	in        [modelInstances]modelInstance
}

// modelRow is a batch in the journal; the zero value is none.
type modelRow struct {
	exists, marked bool
	slot           int8
}

// modelInstance is one instance's memory, connection, and statements under way.
type modelInstance struct {
	dead      bool
	session   modelSession
	recovered bool // it has read the journal
	flights   [modelJobs + 1]modelFlight
	sent      modelQueue // packets on their way to the broker
	answers   modelQueue // and back
	marking   [modelJobs + 1]bool
	deleting  [modelJobs + 1]bool
}

type modelSession uint8

const (
	offline   modelSession = iota
	accepted               // CONNACK is in, the lease is not confirmed
	confirmed              // may send
)

// modelFlight is a claimed job; the states are those of flightState.
type modelFlight struct {
	state flightState
	slot  int8
	again modelAgain
	tried bool // PUBREL may have been sent
}

// modelAgain tells whether a message that was received has to be sent again before it is
// released, over this connection.
type modelAgain uint8

const (
	sure modelAgain = iota
	unsure
	asked
)

// modelPacket is PUBLISH or PUBREL, or PUBREC or PUBCOMP for it.
type modelPacket struct {
	slot, job int8 // job 0: PUBREL, PUBCOMP
}

type modelQueue struct {
	n       int8
	packets [2 * modelSlots]modelPacket
}

func (q *modelQueue) push(p modelPacket) {
	q.packets[q.n] = p
	q.n++
}

func (q *modelQueue) pop() modelPacket {
	p := q.packets[0]
	copy(q.packets[:], q.packets[1:q.n])
	q.n--
	q.packets[q.n] = modelPacket{}
	return p
}

func (q *modelQueue) full() bool { return int(q.n) == len(q.packets) }

// modelStep is one thing that can happen next.
type modelStep struct {
	name string
	to   modelState
}

// steps lists everything that can happen in a state.
func (m modelRules) steps(s modelState) []modelStep {
	var list []modelStep
	can := func(name string, change func(*modelState)) {
		to := s
		change(&to)
		list = append(list, modelStep{name, to})
	}
	for i := range m.instances {
		m.instanceSteps(&s, i, can)
		m.statementSteps(&s, i, can)
		if s.connected == int8(i) {
			if s.in[i].sent.n > 0 && !s.in[i].answers.full() {
				can(fmt.Sprint("the broker takes a packet of ", i), func(to *modelState) { m.arrive(to, i) })
			}
			if int(s.drops) < m.drops {
				can(fmt.Sprint("connection lost by ", i), func(to *modelState) {
					to.drops++
					to.disconnect(i)
				})
			}
		}
	}
	if int(s.rollbacks) < m.rollbacks {
		can("the broker is back with an older state", func(to *modelState) { to.rollBack() })
	}
	if int(s.owner)+1 < m.instances {
		// The owner may be dead, or stopped, or slow: nobody can tell, and it can't either.
		can(fmt.Sprint("lane taken over from ", s.owner), func(to *modelState) { to.owner++ })
	}
	return list
}

// instanceSteps are what a living instance does. That it does nothing for any length of
// time is part of every order of events.
func (m modelRules) instanceSteps(s *modelState, i int, can func(string, func(*modelState))) {
	in := &s.in[i]
	if in.dead || int(s.owner) < i { // not born yet
		return
	}
	name := func(text string, n int) string { return fmt.Sprintf("%d %s %d", i, text, n) }
	can(fmt.Sprint("kill -9 of ", i), func(to *modelState) {
		// What it has written is still on its way; what it knew is gone.
		old := to.in[i]
		to.in[i] = modelInstance{dead: true, session: old.session, sent: old.sent, marking: old.marking, deleting: old.deleting}
	})
	switch in.session {
	case offline:
		can(fmt.Sprint(i, " connects"), func(to *modelState) {
			if to.connected >= 0 {
				to.disconnect(int(to.connected)) // the client id is the same
			}
			to.connected, to.in[i].session = int8(i), accepted
		})
	case accepted:
		can(fmt.Sprint(i, " looks at its lease"), func(to *modelState) {
			if int(to.owner) == i || m.trustOldLease && to.in[i].recovered {
				to.in[i].session = confirmed
			} else {
				to.leave(i)
			}
		})
	case confirmed:
		if !in.recovered {
			can(fmt.Sprint(i, " reads the journal"), func(to *modelState) { to.recover(i) })
			return
		}
		if in.answers.n > 0 {
			can(fmt.Sprint(i, " takes an answer"), func(to *modelState) { to.answer(i) })
		}
	}
	sending := in.session == confirmed && in.recovered && !in.sent.full()
	if sending && int(s.next) <= m.jobs && int(s.owner) == i {
		for slot := range int8(m.slots) {
			if m.slotFree(in, slot) {
				can(name("claims into slot", int(slot)), func(to *modelState) {
					to.journal[to.next] = modelRow{exists: true, slot: slot}
					to.in[i].flights[to.next] = modelFlight{state: ready, slot: slot}
					to.next++
				})
			}
		}
	}
	for job := 1; job <= m.jobs; job++ {
		fl := in.flights[job]
		if fl.again == unsure && sending {
			can(name("sends PUBLISH again", job), func(to *modelState) {
				to.in[i].flights[job].again = asked
				to.in[i].sent.push(modelPacket{fl.slot, int8(job)})
			})
		}
		switch {
		case fl.state == ready && sending:
			can(name("sends PUBLISH", job), func(to *modelState) {
				to.in[i].flights[job].state = sent
				to.in[i].sent.push(modelPacket{fl.slot, int8(job)})
			})
		case fl.state == received && m.releaseBeforeCommit && sending,
			fl.state == markKnown && fl.again == sure && sending:
			can(name("sends PUBREL", job), func(to *modelState) {
				to.in[i].flights[job].state, to.in[i].flights[job].tried = releasing, true
				to.in[i].sent.push(modelPacket{slot: fl.slot})
			})
		case fl.state == received && !in.marking[job]:
			can(name("begins to mark", job), func(to *modelState) {
				if int(to.owner) == i {
					to.in[i].marking[job] = true
				} else {
					to.leave(i)
				}
			})
		case (fl.state == ended || fl.state == releasing && m.deleteBeforePubcomp) && !in.deleting[job]:
			can(name("begins to delete", job), func(to *modelState) {
				if int(to.owner) == i {
					to.in[i].deleting[job] = true
				} else {
					to.leave(i)
				}
			})
		}
	}
}

// slotFree reports whether an instance takes a slot for free.
func (m modelRules) slotFree(in *modelInstance, slot int8) bool {
	for _, fl := range in.flights {
		if fl.state != free && fl.slot == slot && !(m.reuseBeforePubcomp && fl.state == releasing) {
			return false
		}
	}
	return true
}

// statementSteps are the commits of statements that have begun: they come even if the
// instance is dead, and whoever owns the lane by then.
func (m modelRules) statementSteps(s *modelState, i int, can func(string, func(*modelState))) {
	for job := 1; job <= m.jobs; job++ {
		if s.in[i].marking[job] {
			can(fmt.Sprintf("the mark of %d by %d commits", job, i), func(to *modelState) { to.commitMark(i, job) })
		}
		if s.in[i].deleting[job] {
			can(fmt.Sprintf("the deletion of %d by %d commits", job, i), func(to *modelState) { to.commitDelete(i, job) })
		}
	}
}

// markKnown: the mark is committed, PUBREL may be sent. The lane has no state of its own
// for it, since it sends at once.
const markKnown = held

func (s *modelState) commitMark(i, job int) {
	in := &s.in[i]
	if row := &s.journal[job]; row.exists {
		row.marked = true
	}
	if fl := &in.flights[job]; fl.state == received {
		fl.state = markKnown
	}
	in.marking[job] = false
}

func (s *modelState) commitDelete(i, job int) {
	in := &s.in[i]
	s.journal[job] = modelRow{}
	in.flights[job] = modelFlight{}
	in.deleting[job] = false
}

// arrive has the broker take the next packet of a connection.
func (m modelRules) arrive(s *modelState, i int) {
	p := s.in[i].sent.pop()
	stored := &s.stored[p.slot]
	switch {
	case p.job == 0 && *stored != 0: // PUBREL
		if !m.deliverAtPublish {
			s.delivered[*stored]++
		}
		*stored = 0
	case p.job != 0 && *stored == 0: // PUBLISH; of a slot in use it is a repetition
		*stored, s.forgotten[p.job] = p.job, false
		if m.deliverAtPublish {
			s.delivered[p.job]++
		}
	}
	if !s.in[i].dead {
		s.in[i].answers.push(p)
	}
}

// answer has an instance take the next answer.
func (s *modelState) answer(i int) {
	p := s.in[i].answers.pop()
	for job := range s.in[i].flights {
		fl := &s.in[i].flights[job]
		switch {
		case fl.slot != p.slot:
		case int(p.job) == job && fl.state == sent:
			fl.state = received
		case int(p.job) == job && fl.again == asked:
			fl.again = sure
		case p.job == 0 && fl.state == releasing:
			fl.state = ended
		}
	}
}

// recover reads the journal, if the lane is still ours.
func (s *modelState) recover(i int) {
	if int(s.owner) != i {
		s.leave(i)
		return
	}
	s.in[i].recovered = true
	for job, row := range s.journal {
		switch {
		case row.marked:
			// Its last owner may have released it.
			s.in[i].flights[job] = modelFlight{state: markKnown, slot: row.slot, tried: true}
			s.beyondHelp[job] = s.beyondHelp[job] || s.forgotten[job]
		case row.exists:
			s.in[i].flights[job] = modelFlight{state: ready, slot: row.slot}
		}
	}
}

// disconnect ends a connection: what is on its way is lost, and will be sent again.
func (s *modelState) disconnect(i int) {
	in := &s.in[i]
	in.session, in.sent, in.answers = offline, modelQueue{}, modelQueue{}
	for job := range in.flights {
		switch fl := &in.flights[job]; fl.state {
		case sent:
			fl.state = ready
		case releasing:
			fl.state = markKnown
		case received, markKnown:
			if !fl.tried && !s.sureOfAll {
				fl.again = unsure
			}
		}
	}
	s.connected = -1
}

// rollBack has the broker forget what it has received and not released.
func (s *modelState) rollBack() {
	s.rollbacks++
	if s.connected >= 0 {
		s.disconnect(int(s.connected))
	}
	for slot, job := range s.stored {
		if job == 0 {
			continue
		}
		s.stored[slot], s.forgotten[job] = 0, true
		for i := range s.in {
			s.beyondHelp[job] = s.beyondHelp[job] || s.in[i].flights[job].tried
		}
	}
}

// leave has an instance give the lane up, as it does when it finds that it has lost it.
func (s *modelState) leave(i int) {
	if int(s.connected) == i {
		s.disconnect(i)
	}
	old := s.in[i]
	s.in[i] = modelInstance{dead: true, marking: old.marking, deleting: old.deleting}
}

// heal lets a last instance take over and finish, with no more faults, and returns what
// is wrong then. Statements of the dead commit late, or not at all.
func (m modelRules) heal(s modelState, late bool) string {
	if s.connected >= 0 {
		s.disconnect(int(s.connected)) // its client id is used by the last one now
	}
	rows := s.journal // read after that
	if late {
		for i := range m.instances {
			for job := 1; job <= m.jobs; job++ {
				if s.in[i].marking[job] {
					s.commitMark(i, job)
				}
				if s.in[i].deleting[job] {
					s.commitDelete(i, job)
				}
			}
		}
	}
	const last = 0 // a number is needed to send as
	s.in[last] = modelInstance{dead: true}
	for job, row := range rows {
		if !row.exists {
			continue
		}
		if !row.marked {
			s.in[last].sent.push(modelPacket{row.slot, int8(job)})
			m.arrive(&s, last)
		}
		s.in[last].sent.push(modelPacket{slot: row.slot})
		m.arrive(&s, last)
	}
	for job := int8(1); job < s.next; job++ {
		if s.delivered[job] == 0 && (s.beyondHelp[job] || rows[job].marked && s.forgotten[job]) {
			continue // two faults at once: the broker lost it, and who knew whether it was released is dead
		}
		if n := s.delivered[job]; n != 1 {
			return fmt.Sprintf("job %d was delivered %d times", job, n)
		}
	}
	for slot, job := range s.stored {
		if job != 0 {
			return fmt.Sprintf("job %d stays in slot %d of the broker", job, slot)
		}
	}
	return ""
}

// modelTrace is how a state was reached.
type modelTrace struct {
	from int // index of the state before
	name string
}

// modelVerdict is what came of exploring.
type modelVerdict struct {
	states int
	points map[string]bool // crash points of the package doc that were among them
	broken string          // the promise that can be broken, or nothing
	way    []string        // the shortest way there
}

// explore looks at every state that can be reached.
func (m modelRules) explore() modelVerdict {
	v := modelVerdict{points: map[string]bool{}}
	begin := modelState{next: 1, connected: -1, sureOfAll: m.notSentAgain}
	seen := map[modelState]struct{}{begin: {}}
	list, traces := []modelState{begin}, []modelTrace{{from: -1}}
	for at := 0; at < len(list) && v.broken == ""; at++ {
		m.crashPoints(&list[at], v.points)
		if v.broken = m.judge(list[at]); v.broken != "" {
			for i := at; traces[i].from >= 0; i = traces[i].from {
				v.way = append(v.way, traces[i].name)
			}
			slices.Reverse(v.way)
		}
		for _, step := range m.steps(list[at]) {
			if _, known := seen[step.to]; !known {
				seen[step.to] = struct{}{}
				list = append(list, step.to)
				traces = append(traces, modelTrace{at, step.name})
			}
		}
	}
	v.states = len(list)
	return v
}

// crashPoints notes which of the package doc's points the state is, for each job.
func (m modelRules) crashPoints(s *modelState, points map[string]bool) {
	for job := 1; job <= m.jobs; job++ {
		switch {
		case job >= int(s.next):
			points["C1"] = true
			continue
		case !s.journal[job].exists:
			points["C8"] = true
			continue
		}
		for _, in := range s.in[:m.instances] {
			switch in.flights[job].state {
			case ready:
				points["C2"] = true
			case sent:
				points["C3"] = true
			case received:
				points["C4"] = true
			case markKnown:
				points["C5"] = true
			case releasing:
				points["C6"] = true
			case ended:
				points["C7"] = true
			}
		}
	}
}

// judge returns what is wrong in a state, or would be if everybody died now.
func (m modelRules) judge(s modelState) string {
	for job, n := range s.delivered {
		if n > 1 {
			return fmt.Sprintf("job %d was delivered %d times", job, n)
		}
	}
	for _, late := range []bool{false, true} {
		if broken := m.heal(s, late); broken != "" {
			return "when all die here, " + broken
		}
	}
	return ""
}
