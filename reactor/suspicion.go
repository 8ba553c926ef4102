package reactor

import (
	"errors"
	"fmt"

	"github.com/job-publisher/reactor/reactor/driver"
)

// suspicion finds the message that makes the broker hang up. What a broker objects to it
// should refuse by a reason code, but some close the connection instead; sent again over
// and over, one such message would keep its whole lane from ever getting on.
//
//	            the broker blames a packet, or
//	            two sessions in a row end without an answer
//	trusting ───────────────────────────────────────────────► careful: one at a time
//	   ▲                                                        │    │ hangs up on it
//	   └── all that were in flight have been answered ──────────┘    ▼
//	                                                      a strike; after some: failed
type suspicion struct {
	answered  bool        // the broker has answered something over this session
	fruitless int         // sessions in a row that ended without an answer to what was sent
	careful   int         // messages still to be sent alone
	suspect   driver.Slot // the one that is, or was, sent alone
	alone     bool        // it is in flight
	strikes   int         // sessions that ended with it
}

const (
	// strikesBlamed suffice where the broker gives a reason that blames a packet.
	strikesBlamed = 3
	// strikesSilent are needed where the connection just ends, as it does for many other
	// reasons.
	strikesSilent = 10
)

// strikesFor is how many sessions have to end for this reason before their one message is
// held to be the cause; 0: it can't be.
func strikesFor(why error) int {
	var d *driver.DisconnectedError
	switch {
	case errors.Is(why, driver.ErrSessionTakenOver):
		return 0
	case !errors.As(why, &d):
		return strikesSilent
	}
	switch d.Code {
	case 0x80, 0x81, 0x82, 0x83, 0x87, 0x90, 0x94, 0x95, 0x99, 0x9A, 0x9B:
		return strikesBlamed
	}
	return 0 // busy, shutting down, over quota, …
}

// maySend reports whether another message may be sent.
func (s *suspicion) maySend() bool { return s.careful == 0 || !s.alone }

// sends takes note that a message is sent.
func (s *suspicion) sends(slot driver.Slot) {
	if s.careful == 0 {
		return
	}
	if slot != s.suspect {
		s.suspect, s.strikes = slot, 0
	}
	s.alone = true
}

// answers takes note that the broker has answered a message.
func (s *suspicion) answers() {
	s.answered, s.fruitless = true, 0
	if s.alone {
		s.alone, s.suspect, s.strikes = false, 0, 0
		s.careful--
	}
}

// ends takes note of the end of a session with some messages unanswered. It returns the
// slot of the message that is the cause, or 0.
func (s *suspicion) ends(why error, unanswered int) driver.Slot {
	needed := strikesFor(why)
	answered, alone := s.answered, s.alone
	s.answered, s.alone = false, false
	switch {
	case unanswered == 0 || needed == 0:
		return 0
	case alone:
		s.strikes++
		if s.strikes < needed {
			return 0
		}
		cause := s.suspect
		s.suspect, s.strikes = 0, 0
		s.careful--
		return cause
	case !answered:
		s.fruitless++
	}
	if needed == strikesBlamed || s.fruitless >= 2 {
		s.careful = unanswered
	}
	return 0
}

// condemn fails the message that makes the broker hang up. The caller holds mu.
//
// At QoS 2 the broker may have stored it all the same: its slot has to be released before
// another message can use it, and as ever not before the journal knows (C4).
func (l *lane) condemn(s driver.Slot, why error) {
	fl := l.at(s)
	failure := driver.Failure{Final: true, Reason: fmt.Sprintf("the broker ends the connection whenever it is sent this message: %v", why)}
	var d *driver.DisconnectedError
	if errors.As(why, &d) {
		failure.Code = d.Code
	}
	l.log.Warn("the broker ends the connection whenever it is sent this message; giving it up", "job", fl.job.ID, "err", why)
	if fl.flying.qos < 2 {
		l.endAndSettle(s, &failure)
		return
	}
	l.fails(s, failure)
	fl.state, fl.unsure = received, false
	l.forget(fl)
	l.report(fl.flying)
}
