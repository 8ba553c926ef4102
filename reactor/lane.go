package reactor

import (
	"log/slog"
	"slices"
	"sync"
	"time"
)

// lane is the state of one way to the broker: which messages are claimed for it,
// which are on the wire, which have ended. It outlives the network connections
// (sessions) it is sent over; what they lose is sent again.
//
// Its slots form a ring, taken at the head by claims and given back at the tail, a
// batch at a time, when a batch is settled. The number of slots is what bounds the
// memory of a lane, and what makes a broker that is slow, or gone, stop the claims.
//
// The mutex guards everything below it. It is held for as long as it takes to queue
// some messages, never while waiting for the network or the database.
type lane struct {
	clientID string
	delivery Delivery
	log      *slog.Logger
	stats    *counters
	// leased reports whether we may send right now, by our own clock.
	leased func() bool
	clock  *clock
	// settle takes batches that have news for the journal.
	settle func(*lane, *flying)
	// onLoss is for messages whose outcome is unknown because the broker lost them.
	onLoss SessionLossPolicy
	// capacity is set when slots became free or a session was attached.
	capacity signal

	mu      sync.Mutex
	lease   Lease
	session Session // nil while there is none
	limits  Limits
	slots   [LaneSlots]flight
	head    Slot      // the next to be taken
	batches []*flying // oldest first; their slots are consecutive on the ring
	queue   []Slot    // ready to be sent, in order
	bytes   int       // of the payloads that have not ended
	wire    int       // slots that are taken at the broker
	out     []Message // reused by pump
	freed   []Slot    // reused for releases
	closing bool      // nothing more is taken
	abandon func()    // ends the lane's runner; nil before it runs
}

// maxLaneBytes bounds the payloads of a lane, give or take a claim's.
const maxLaneBytes = 32 << 20

func (l *lane) at(s Slot) *flight { return &l.slots[s-1] }

// freeSlots is how many more jobs can be taken. The caller holds mu.
func (l *lane) freeSlots() int {
	if len(l.batches) == 0 {
		return LaneSlots
	}
	used := (int(l.head) - int(l.batches[0].first) + LaneSlots) % LaneSlots
	if used == 0 {
		return 0
	}
	return LaneSlots - used
}

// room reports whether a claim of n jobs can be made: there are slots, and somebody
// to send to. first is where its slots begin.
func (l *lane) room(n int) (lease Lease, first Slot, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lease, l.head, !l.closing && l.session != nil && l.leased() &&
		l.freeSlots() >= n && l.bytes < maxLaneBytes
}

// admit takes a claimed batch in.
func (l *lane) admit(b Batch) *flying {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.take(b)
}

func (l *lane) take(b Batch) *flying {
	f := &flying{
		batch: b.ID, round: b.Round, qos: b.QoS, first: b.FirstSlot,
		jobs: len(b.Jobs), kept: len(b.Jobs), journalled: len(b.Jobs), marked: b.Settled,
	}
	l.batches = append(l.batches, f)
	for i, job := range b.Jobs {
		*l.at(f.slot(i)) = flight{job: job, flying: f, state: held}
		l.bytes += len(job.Payload)
	}
	l.head = f.slot(f.jobs)
	l.stats.inFlight.Add(int64(f.jobs))
	return f
}

// recovered takes in what an earlier owner of the lane left in the journal: each of
// its messages may or may not have reached the broker. lost tells that the broker has
// no session any more to resume.
func (l *lane) recovered(batches []Batch, lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range batches {
		f := l.take(b)
		for i := range b.Jobs {
			s := f.slot(i)
			fl := l.at(s)
			fl.state, fl.attempted, fl.dup = ready, true, true
			switch {
			case b.QoS == 0:
				// Promised at most once; and it may have been once already.
				l.end(s, &Failure{Reason: "outcome unknown: the instance that claimed it stopped before it was settled, and at-most-once does not try again", Final: true})
			case b.QoS == 2 && lost:
				l.queue = l.outcomeUnknown(s, l.queue)
			case b.QoS == 2 && (i < b.Settled || fl.job.Topic == ""):
				// The broker has it, or, its row deleted, may have it: either way the slot must be
				// freed there before another message can use it.
				fl.state = releasing
			default:
				l.queue = append(l.queue, s)
			}
		}
		l.report(f)
	}
}

// outcomeUnknown deals with a message that the broker may have passed on or lost,
// together with its session. It returns the queue, with the slot if it is to be sent
// again.
func (l *lane) outcomeUnknown(s Slot, queue []Slot) []Slot {
	fl := l.at(s)
	l.stats.outcomesUnknown.Add(1)
	switch {
	case fl.job.Topic == "": // deleted
		l.end(s, nil)
	case l.onLoss == Fail:
		l.end(s, &Failure{Reason: "outcome unknown: the broker lost its session state while the message was on its way, and --on-session-loss is fail", Final: true})
	default:
		fl.state, fl.dup = ready, false
		return append(queue, s)
	}
	return queue
}

// lose deals with a broker that has lost our session. The journal has been told (round)
// that what it says of the QoS 2 batches is void.
func (l *lane) lose(round int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var again, rest []Slot
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
		for i := range f.kept {
			if fl := l.at(f.slot(i)); fl.attempted && fl.state != ended {
				again = l.outcomeUnknown(f.slot(i), again)
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

// launch sends the batch's jobs from … to-1: their time has come.
func (l *lane) launch(f *flying, from, to int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := from; i < to && i < f.kept; i++ {
		s := f.slot(i)
		l.at(s).state = ready
		l.queue = append(l.queue, s)
	}
	l.pump()
}

// pump sends what is ready, as far as the broker's limit goes. The caller holds mu.
//
// If we die before a message is sent, the journal has the job and its recovery
// publishes it. If we die after, the recovery publishes it again: at QoS 2 in the same
// slot, by which the broker knows it; at QoS 1 it may arrive twice. At QoS 0 the
// recovery publishes nothing.
func (l *lane) pump() {
	if l.session == nil || !l.leased() {
		return
	}
	n, now := 0, l.clock.Now()
	l.out = l.out[:0]
	for n < len(l.queue) && l.wire < l.limits.InFlight {
		s := l.queue[n]
		n++
		fl := l.at(s)
		if fl.job.Topic == "" { // deleted since it was claimed: cancelled
			l.endAndSettle(s, nil)
			continue
		}
		if at := fl.job.ExpiresAt; at != 0 && at < now && !fl.attempted {
			l.endAndSettle(s, &Failure{Reason: "expired at " + at.Time().Format(time.RFC3339Nano) + " before it could be published", Final: true})
			continue
		}
		m := Message{Slot: s, JobID: fl.job.ID, Topic: fl.job.Topic, Payload: fl.job.Payload, QoS: fl.flying.qos, Dup: fl.dup}
		if err := l.session.Check(m); err != nil {
			l.endAndSettle(s, &Failure{Reason: err.Error(), Final: true})
			continue
		}
		fl.state, fl.attempted = sent, true
		l.wire++
		l.out = append(l.out, m)
	}
	l.queue = append(l.queue[:0], l.queue[n:]...)
	if len(l.out) > 0 {
		// An error means that the session has ended; detach will queue them again.
		_ = l.session.Publish(l.out)
		clear(l.out) // let go of the payloads
	}
}

// codeInUse is the broker's answer to a slot that it has not forgotten. Some give it to
// a repeated message instead of another PUBREC.
const codeInUse = 0x91

// acks takes the broker's answers; the session calls it.
func (l *lane) acks(acks []Ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range acks {
		if a.Slot < 1 || a.Slot > LaneSlots {
			continue
		}
		l.answered(a)
	}
	l.pump()
}

// answered takes one answer. Those that fit no message are not ours, or come twice.
func (l *lane) answered(a Ack) {
	fl := l.at(a.Slot)
	switch {
	case fl.state == releasing && a.Step == Completed:
		// Whatever the code: the broker has nothing under this slot any more.
		l.wire--
		l.endAndSettle(a.Slot, nil)
	case fl.state != sent:
	case fl.flying.qos == 2 && a.Step == Received && (!a.Refused() || a.Code == codeInUse && fl.dup):
		// If we die before the journal knows, the message is sent again, in the same slot,
		// and the broker answers the same.
		fl.state = received
		l.stats.published.Add(1)
		l.report(fl.flying)
	case a.Refused():
		l.wire--
		l.stats.refused.Add(1)
		l.endAndSettle(a.Slot, &Failure{Code: a.Code, Reason: a.Reason})
	case fl.flying.qos != 2 && a.Step == Completed:
		l.wire--
		l.stats.published.Add(1)
		l.endAndSettle(a.Slot, nil)
	}
}

func (l *lane) endAndSettle(s Slot, failure *Failure) {
	l.end(s, failure)
	l.report(l.at(s).flying)
}

// end concludes the message in a slot: published, or failed.
func (l *lane) end(s Slot, failure *Failure) {
	fl := l.at(s)
	f := fl.flying
	if failure != nil {
		failure.JobID = fl.job.ID
		f.failures = append(f.failures, placedFailure{f.place(s), *failure})
	}
	fl.state = ended
	l.forget(fl)
	f.ended++
}

// forget lets go of a payload.
func (l *lane) forget(fl *flight) {
	l.bytes -= len(fl.job.Payload)
	fl.job = Job{ID: fl.job.ID}
}

// report tells the settler if there is news of a batch. The caller holds mu.
func (l *lane) report(f *flying) {
	for f.front < f.kept && l.at(f.slot(f.front)).state.concluded() {
		f.front++
	}
	if f.news() && !f.landed {
		f.landed = true
		l.settle(l, f)
	}
}

// settlement describes the batch's present state for the journal.
func (l *lane) settlement(f *flying) Settlement {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.landed = false
	s := Settlement{
		BatchID: f.batch, Round: f.round, Lease: l.lease,
		Jobs: f.journalled, Kept: f.kept, Done: f.done(),
	}
	if s.Done || f.qos == 2 {
		s.Settled = f.front
		for _, failure := range f.failures {
			if failure.i < f.front {
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
func (l *lane) settled(s Settlement, f *flying, held bool) {
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
	f.failures = slices.DeleteFunc(f.failures, func(p placedFailure) bool { return p.i < s.Settled })
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
}

// releaseFrom releases what the journal has come to know as received: the batch's
// messages up to, not including, the one at end.
func (l *lane) releaseFrom(f *flying, end int) {
	l.freed = l.freed[:0]
	for ; f.marked < end; f.marked++ {
		s := f.slot(f.marked)
		if fl := l.at(s); fl.state == received {
			fl.state = releasing
			l.freed = append(l.freed, s)
		}
	}
	if l.session != nil && len(l.freed) > 0 {
		_ = l.session.Release(l.freed) // an error: it has ended, and attach does it again
	}
}

// attach begins to send over a session: first what has to be released, to make room.
func (l *lane) attach(s Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session, l.limits = s, s.Limits()
	l.wire, l.freed = 0, l.freed[:0]
	for _, f := range l.batches {
		for i := range f.kept {
			switch l.at(f.slot(i)).state {
			case releasing:
				l.freed = append(l.freed, f.slot(i))
				l.wire++
			case received:
				l.wire++
			}
		}
	}
	if len(l.freed) > 0 {
		_ = s.Release(l.freed)
	}
	l.pump()
	l.capacity.set()
}

// detach ends it. What the broker has not answered is sent again over the next
// session, before everything else and in the same order.
func (l *lane) detach() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session = nil
	var unanswered []Slot
	for _, f := range l.batches {
		for i := range f.kept {
			s := f.slot(i)
			fl := l.at(s)
			if fl.state != sent {
				continue
			}
			if f.qos == 0 {
				l.endAndSettle(s, &Failure{Reason: "outcome unknown: the connection was lost while it was being sent, and at-most-once does not try again", Final: true})
				continue
			}
			fl.state, fl.dup = ready, true
			unanswered = append(unanswered, s)
		}
	}
	l.wire = 0
	l.queue = append(unanswered, l.queue...)
}

// resume sends again after the lease was in doubt.
func (l *lane) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pump()
	l.capacity.set()
}

// handBack gives up what was claimed and never sent: nobody but the table knows of
// it. Jobs are sent in the order of their batch, so it is the end of each batch.
func (l *lane) handBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = true
	for _, f := range l.batches {
		kept := f.kept
		for kept > 0 {
			fl := l.at(f.slot(kept - 1))
			if fl.attempted || fl.state == ended {
				break
			}
			fl.state = free
			l.forget(fl)
			kept--
		}
		if kept < f.kept {
			l.stats.returned.Add(int64(f.kept - kept))
			f.kept = kept
			l.report(f)
		}
	}
	queue := l.queue[:0]
	for _, s := range l.queue {
		if l.at(s).state == ready {
			queue = append(queue, s)
		}
	}
	l.queue = queue
}

// drop gives up what is left: it is in the journal, for the lane's next owner.
func (l *lane) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = true
	for _, f := range l.batches {
		l.stats.inFlight.Add(-int64(f.jobs))
	}
	l.batches, l.queue = nil, nil
}

// idle reports whether nothing is left to be settled.
func (l *lane) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.batches) == 0
}

// leaveBy says how to end the lane's runner.
func (l *lane) leaveBy(abandon func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.abandon = abandon
}

// relet replaces the lease after its epoch was raised by ourselves.
func (l *lane) relet(lease Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lease = lease
}
