package reactor

import "time"

// The exchange of a lane with the broker: sending, the answers, and what becomes of
// both when the connection, or the broker's session, is lost.

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
