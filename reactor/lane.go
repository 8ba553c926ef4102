package reactor

import (
	"log/slog"
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
	// settle takes batches that are done.
	settle func(*lane, *flying)
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
	wire    int       // sent and not acknowledged
	out     []Message // reused by pump
	closing bool      // nothing more is taken
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
	f := &flying{batch: b.ID, first: b.FirstSlot, jobs: len(b.Jobs), kept: len(b.Jobs)}
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
// its messages may or may not have reached the broker.
func (l *lane) recovered(batches []Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range batches {
		f := l.take(b)
		for i := range b.Jobs {
			fl := l.at(f.slot(i))
			fl.state, fl.attempted = ready, true
			if b.QoS == 0 {
				// Promised at most once; and it may have been once already.
				l.end(f.slot(i), &Failure{Reason: "outcome unknown: the instance that claimed it stopped before it was settled, and at-most-once does not try again", Final: true})
				continue
			}
			l.queue = append(l.queue, f.slot(i))
		}
		l.settleIfDone(f)
	}
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
// publishes it. If we die after, the recovery publishes it again: at-least-once. At
// QoS 0 the recovery publishes nothing: at-most-once.
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
		m := Message{Slot: s, JobID: fl.job.ID, Topic: fl.job.Topic, Payload: fl.job.Payload, QoS: l.delivery.QoS(), Dup: fl.attempted}
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

// acks takes the broker's answers; the session calls it.
func (l *lane) acks(acks []Ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range acks {
		if a.Slot < 1 || a.Slot > LaneSlots || l.at(a.Slot).state != sent {
			continue // not ours, or answered twice
		}
		l.wire--
		if a.Refused() {
			l.stats.refused.Add(1)
			l.endAndSettle(a.Slot, &Failure{Code: a.Code, Reason: a.Reason})
			continue
		}
		l.stats.published.Add(1)
		l.endAndSettle(a.Slot, nil)
	}
	l.pump()
}

func (l *lane) endAndSettle(s Slot, failure *Failure) {
	f := l.at(s).flying
	l.end(s, failure)
	l.settleIfDone(f)
}

// end concludes the message in a slot: published, or failed.
func (l *lane) end(s Slot, failure *Failure) {
	fl := l.at(s)
	f := fl.flying
	if failure != nil {
		failure.JobID = fl.job.ID
		f.failures = append(f.failures, *failure)
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

func (l *lane) settleIfDone(f *flying) {
	if f.done() {
		l.settle(l, f)
	}
}

// settlement describes the batch's present state for the journal.
func (l *lane) settlement(f *flying) Settlement {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Settlement{BatchID: f.batch, Lease: l.lease, Jobs: f.jobs, Kept: f.kept}
	if f.done() {
		s.Settled, s.Failures = f.kept, f.failures
	}
	return s
}

// release gives the slots of batches back that have left the journal.
func (l *lane) release(s Settlement, f *flying) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !s.Done() || f.settled {
		return
	}
	f.settled = true
	for len(l.batches) > 0 && l.batches[0].settled {
		l.stats.inFlight.Add(-int64(l.batches[0].jobs))
		l.batches[0] = nil
		l.batches = l.batches[1:]
	}
	l.capacity.set()
}

// attach begins to send over a session.
func (l *lane) attach(s Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session, l.limits = s, s.Limits()
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
			if l.at(s).state != sent {
				continue
			}
			if l.delivery == AtMostOnce {
				l.end(s, &Failure{Reason: "outcome unknown: the connection was lost while it was being sent, and at-most-once does not try again", Final: true})
				continue
			}
			l.at(s).state = ready
			unanswered = append(unanswered, s)
		}
	}
	l.wire = 0
	l.queue = append(unanswered, l.queue...)
	for _, f := range l.batches {
		if l.delivery == AtMostOnce && f.done() && !f.settled && f.kept > 0 {
			l.settle(l, f)
		}
	}
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
			if fl.state == sent || fl.state == ended || fl.attempted {
				break
			}
			fl.state = free
			l.forget(fl)
			kept--
		}
		if kept < f.kept {
			l.stats.returned.Add(int64(f.kept - kept))
			f.kept = kept
			l.settle(l, f)
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

// relet replaces the lease after its epoch was raised by ourselves.
func (l *lane) relet(lease Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lease = lease
}
