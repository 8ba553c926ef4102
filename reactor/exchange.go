package reactor

import (
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The exchange of a lane with the broker: sending, the answers, and what becomes of
// both when the connection, or the broker's session, is lost.

// pump sends what is ready, as far as the broker's limit goes. The caller holds mu.
//
// If we die before a message is sent, the journal has the job and its recovery
// publishes it. If we die after, the recovery publishes it again: at QoS 2 in the same
// slot, by which the broker knows it; at QoS 1 it may arrive twice. At QoS 0 the
// recovery publishes nothing.
func (l *lane) pump() {
	if l.session == nil || !l.leased() || l.pace.resting(time.Now()) {
		return
	}
	limit := l.pace.limit(l.limits.InFlight)
	if limit >= wideWindow && limit-l.wire < min(len(l.queue), limit/4) {
		return // acks fills it
	}
	n, now, local := 0, l.clock.Now(), l.clock.local()
	base := l.base()
	l.out, l.beyond = l.out[:0], l.beyond[:0]
	for n < len(l.queue) && l.wire < limit && l.suspicion.maySend() {
		s := l.queue[n]
		n++
		fl := l.at(s)
		again := fl.state == received // and unsure
		if fl.job.Topic == "" {       // deleted since it was claimed: cancelled
			l.endAndSettle(s, nil)
			continue
		}
		if at := fl.job.ExpiresAt; fl.job.Expires && at < now && !fl.attempted {
			l.endAndSettle(s, &driver.Failure{Reason: "expired at " + at.Time().Format(time.RFC3339Nano) + " before it could be published", Final: true})
			continue
		}
		if !again && !fl.attempted && s.Minus(base) >= fl.flying.reach {
			l.beyond = append(l.beyond, s) // what is nearer goes first, whatever its turn
			continue
		}
		m := driver.Message{Slot: s, JobID: fl.job.ID, Topic: fl.job.Topic, Payload: fl.job.Payload, QoS: fl.flying.qos, Dup: fl.dup}
		if err := l.session.Check(m); err != nil && !again {
			l.endAndSettle(s, &driver.Failure{Reason: err.Error(), Final: true})
			continue
		}
		if !again {
			fl.state = sent
		}
		fl.attempted, fl.sentAt = true, local
		l.wire++
		l.suspicion.sends(s)
		l.out = append(l.out, m)
	}
	l.blocked = len(l.beyond) > 0
	rest := append(l.queue[:0], l.beyond...)
	l.queue = append(rest, l.queue[n:]...)
	if len(l.out) > 0 {
		// An error means that the session has ended; detach will queue them again.
		_ = l.session.Publish(l.out)
		clear(l.out) // let go of the payloads
	}
}

// wideWindow is the width of a window from which on it is filled by quarters when it is
// nearly full, and its marks wait for company: one by one each message costs us and the
// broker a write, a read and a wake-up. A narrow one is filled as soon as there is room. It
// has no quarter worth waiting for, and a broker that does not send small packets before
// the last is acknowledged (Nagle's algorithm, Mosquitto's default) would wait for our
// next message as we wait for its next answer: up to 40 ms each time.
const wideWindow = 128

// codeInUse is the broker's answer to a slot that it has not forgotten. Some give it to
// a repeated message instead of another PUBREC.
const codeInUse = 0x91

// acks takes the broker's answers; the session calls it.
func (l *lane) acks(acks []driver.Ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.again, l.took, l.late, l.answeredAt = l.again[:0], l.took[:0], l.late[:0], l.clock.local()
	for _, a := range acks {
		if a.Slot < 1 || a.Slot > driver.LaneSlots {
			continue
		}
		l.answered(a)
	}
	l.stats.ack.observe(l.took...)
	l.stats.accepted.observe(l.late...)
	if len(l.took) > 0 {
		l.progress.accepted.touch()
	}
	if len(l.again) > 0 {
		l.queue = slices.Insert(l.queue, 0, l.again...)
	}
	if l.full() && l.marksPressing() {
		l.hurry()
	}
	l.pump()
}

// answered takes one answer. Those that fit no message are not ours, or come twice.
func (l *lane) answered(a driver.Ack) {
	fl := l.at(a.Slot)
	switch {
	case fl.state == releasing && a.Step == driver.Released:
		l.wire--
		l.suspicion.answered = true
		if a.Code == driver.CodeUnknownSlot && fl.releases == 1 {
			// It had it, and has forgotten it before it was told to.
			l.forgotten(a.Slot)
			return
		}
		// Whatever the code: the broker has nothing under this slot any more.
		l.endAndSettle(a.Slot, nil)
	case a.Step == driver.Released:
	case fl.state == received && fl.unsure && a.Step == driver.Received:
		l.answeredAgain(a, fl)
	case fl.state != sent || fl.flying.qos == 2 != (a.Step == driver.Received):
	case fl.flying.qos == 2 && (!a.Refused() || a.Code == codeInUse && fl.dup):
		// If we die before the journal knows, the message is sent again, in the same slot,
		// and the broker answers the same.
		fl.state = received
		l.accepted(fl)
		l.report(fl.flying)
	case a.Code == codeQuota:
		// The exchange is over, and the broker has kept nothing of it.
		l.wire--
		fl.state, fl.attempted, fl.dup = ready, false, false
		l.again = append(l.again, a.Slot)
		l.suspicion.answers()
		l.slowDown(a)
	case a.Refused():
		l.wire--
		l.suspicion.answers()
		l.stats.refused.Add(1)
		l.endAndSettle(a.Slot, &driver.Failure{Code: a.Code, Reason: a.Reason})
	default:
		l.wire--
		l.accepted(fl)
		l.endAndSettle(a.Slot, nil)
	}
}

// answeredAgain takes the answer to a message that was received over an earlier
// connection, and sent again to make sure.
func (l *lane) answeredAgain(a driver.Ack, fl *flight) {
	l.suspicion.answers()
	switch {
	case !a.Refused() || a.Code == codeInUse:
		fl.unsure = false
		if f := fl.flying; f.place(a.Slot) < f.marked {
			l.release(a.Slot)
		}
	case a.Code == codeQuota:
		l.wire--
		l.again = append(l.again, a.Slot)
		l.slowDown(a)
	default: // it has forgotten it, and does not want it any more
		l.wire--
		l.stats.refused.Add(1)
		l.endAndSettle(a.Slot, &driver.Failure{Code: a.Code, Reason: a.Reason})
	}
}

// forgotten deals with a message that the broker had received, and did not know any more
// when it was to be released. A broker that passes messages on at PUBREL has lost it.
func (l *lane) forgotten(s driver.Slot) {
	l.stats.outcomesUnknown.Add(1)
	failure := driver.Failure{Code: driver.CodeUnknownSlot, Reason: "outcome unknown: the broker forgot the message between receiving and releasing it"}
	if l.onLoss == Fail {
		failure.Final, failure.Reason = true, failure.Reason+", and --on-session-loss is fail"
	}
	l.endAndSettle(s, &failure)
}

// accepted takes note that the broker has taken a message.
func (l *lane) accepted(fl *flight) {
	l.stats.published.Add(1)
	l.took = append(l.took, l.answeredAt-fl.sentAt)
	l.late = append(l.late, l.clock.at(l.answeredAt).Sub(fl.job.FireAt))
	l.pace.accepted(l.limits.InFlight)
	l.suspicion.answers()
}

// slowDown takes note that the broker is over quota.
func (l *lane) slowDown(a driver.Ack) {
	l.stats.throttled.Add(1)
	if rest := l.pace.over(time.Now(), l.wire); rest > 0 {
		l.overQuota.Fail(l.log, slog.LevelWarn, "the broker is over quota; sending slower", "client_id", l.clientID, "reason", a.Reason)
		time.AfterFunc(rest, l.resume)
	}
}

func (l *lane) endAndSettle(s driver.Slot, failure *driver.Failure) {
	l.end(s, failure)
	l.report(l.at(s).flying)
}

// end concludes the message in a slot: published, or failed.
func (l *lane) end(s driver.Slot, failure *driver.Failure) {
	fl := l.at(s)
	f := fl.flying
	if failure != nil {
		l.fails(s, *failure)
	}
	fl.state = ended
	l.forget(fl)
	f.ended++
}

// fails notes that the message in a slot is not published.
func (l *lane) fails(s driver.Slot, failure driver.Failure) {
	fl := l.at(s)
	f, i := fl.flying, fl.flying.place(s)
	failure.JobID, failure.Topic = fl.job.ID, fl.job.Topic
	f.failures = append(f.failures, placedFailure{i, f.qos == 2 && i < f.front, failure})
}

// attach begins to send over a session: first what has to be released, to make room.
//
// What was received over an earlier connection and never released is sent again, under the
// same slot: a broker that has it answers as before, and one that was killed, and is back
// with an older state, gets it. Released before that it would be released into nothing.
// Where PUBREL may have been sent already nothing can be asked: to send again could
// publish twice.
func (l *lane) attach(s driver.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session, l.limits = s, s.Limits()
	l.wire, l.freed = 0, l.freed[:0]
	var unsure []driver.Slot
	for _, f := range l.batches {
		for i := range f.kept {
			s := f.slot(i)
			fl := l.at(s)
			switch {
			case fl.state == releasing && (fl.releases > 0 || fl.job.Topic == ""):
				l.freed = append(l.freed, s)
				l.wire++
			case fl.state == releasing || fl.state == received && fl.releases == 0 && fl.job.Topic != "":
				fl.state, fl.unsure, fl.dup = received, true, true
				unsure = append(unsure, s)
			case fl.state == received:
				l.wire++
			}
		}
	}
	l.sendReleases()
	l.queue = append(unsure, l.queue...)
	l.pump()
	l.capacity.set()
}

// detach ends it, for a reason. What the broker has not answered is sent again over the
// next session, before everything else and in the same order. It reports whether the
// session got anything done.
func (l *lane) detach(why error) (fruitful bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil {
		for _, s := range l.session.Unreleased() {
			if fl := l.at(s); fl.state == releasing {
				fl.releases--
			}
		}
	}
	l.session = nil
	fruitful = l.suspicion.answered
	var unanswered []driver.Slot
	asked := 0 // what was sent to make sure of it
	for _, f := range l.batches {
		for i := range f.kept {
			s := f.slot(i)
			fl := l.at(s)
			if fl.unsure {
				asked++
			}
			if fl.state != sent {
				continue
			}
			if f.qos == 0 {
				l.endAndSettle(s, &driver.Failure{Reason: "outcome unknown: the connection was lost while it was being sent, and at-most-once does not try again", Final: true})
				continue
			}
			fl.state, fl.dup = ready, true
			unanswered = append(unanswered, s)
		}
	}
	l.wire = 0
	l.queue = slices.DeleteFunc(l.queue, func(s driver.Slot) bool { return l.at(s).state == received }) // attach finds them
	if cause := l.suspicion.ends(why, len(unanswered)+asked); cause != 0 {
		l.condemn(cause, why)
		unanswered = slices.DeleteFunc(unanswered, func(s driver.Slot) bool { return s == cause })
	}
	if tooMany(why) && len(unanswered) > 1 {
		// The broker holds other slots than those we began with. Which, it does not say.
		unanswered = append(unanswered[1:], unanswered[0])
	}
	l.queue = append(unanswered, l.queue...)
	return fruitful
}

// tooMany reports whether a session ended because the broker held more messages than its
// Receive Maximum. Where that is 1, a recovery may begin with another one than it holds.
func tooMany(why error) bool {
	var d *driver.DisconnectedError
	return errors.As(why, &d) && d.Code == 0x93
}
