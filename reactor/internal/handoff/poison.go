package handoff

import (
	"errors"
	"fmt"

	"github.com/job-publisher/reactor/reactor/driver"
)

// poison finds the message that makes the broker end the connection. A broker should refuse a
// message by a reason code, but some end the connection instead. Such a message would be sent
// again over each connection, and its lane would never make progress.
//
//	               the broker blames a packet, or
//	               two connections in a row end without an answer
//	all at once ─────────────────────────────────────────────────► one at a time
//	   ▲                                                             │    │ the connection ends
//	   └── all that were in flight have been answered ───────────────┘    ▼
//	                                                     counted; given up after some
type poison struct {
	answered  bool        // the broker has answered something over this connection
	fruitless int         // connections in a row that ended without an answer to what was sent
	singly    int         // messages still to be sent one at a time
	candidate driver.Slot // the message that is, or was, sent alone
	alone     bool        // the candidate is in flight
	endings   int         // connections that ended while the candidate was in flight
}

const (
	// endingsBlamed is how many endings suffice if the broker gives a reason that blames a
	// packet.
	endingsBlamed = 3
	// endingsSilent is how many are needed if the connection ends without a reason, as that has
	// many other causes.
	endingsSilent = 10
)

// endingsFor is how many connections have to end for this reason before the message that was
// sent alone counts as the cause; 0: it can't be the cause.
func endingsFor(why error) int {
	var d *driver.DisconnectedError
	switch {
	case errors.Is(why, driver.ErrSessionTakenOver), errors.Is(why, driver.ErrSessionGivenUp), errors.Is(why, driver.ErrBrokerDoubted):
		return 0
	case !errors.As(why, &d):
		return endingsSilent
	}
	switch d.Code {
	case driver.CodeUnspecified, driver.CodeMalformedPacket, driver.CodeProtocolError, driver.CodeImplementationSpecific,
		driver.CodeNotAuthorized, driver.CodeTopicNameInvalid, driver.CodeTopicAliasInvalid, driver.CodePacketTooLarge,
		driver.CodePayloadFormatInvalid, driver.CodeRetainNotSupported, driver.CodeQoSNotSupported:
		return endingsBlamed
	}
	return 0 // busy, shutting down, over quota, …
}

// maySend reports whether another message may be sent.
func (p *poison) maySend() bool { return p.singly == 0 || !p.alone }

// sends records that a message is sent.
func (p *poison) sends(slot driver.Slot) {
	if p.singly == 0 {
		return
	}
	if slot != p.candidate {
		p.candidate, p.endings = slot, 0
	}
	p.alone = true
}

// answers records that the broker has answered a message.
func (p *poison) answers() {
	p.answered, p.fruitless = true, 0
	if p.alone {
		p.alone, p.candidate, p.endings = false, 0, 0
		p.singly--
	}
}

// ends records the end of a connection with some messages unanswered. It returns the slot of
// the message that is the cause, or 0.
func (p *poison) ends(why error, unanswered int) driver.Slot {
	needed := endingsFor(why)
	answered, alone := p.answered, p.alone
	p.answered, p.alone = false, false
	switch {
	case unanswered == 0 || needed == 0:
		return 0
	case alone:
		p.endings++
		if p.endings < needed {
			return 0
		}
		cause := p.candidate
		p.candidate, p.endings = 0, 0
		p.singly--
		return cause
	case !answered:
		p.fruitless++
	}
	if needed == endingsBlamed || p.fruitless >= 2 {
		p.singly = unanswered
	}
	return 0
}

// giveUp fails the message that makes the broker end the connection.
//
// At QoS 2 the broker may have stored the message even so. Then its slot has to be released
// before another message can use it, and, as always, not before the journal knows.
func (m *Machine) giveUp(s driver.Slot, why error) {
	msg := m.at(s)
	f := driver.Failure{Final: true, Reason: fmt.Sprintf("the broker ends the connection whenever it is sent this message: %v", why)}
	var d *driver.DisconnectedError
	if errors.As(why, &d) {
		f.Code = d.Code
	}
	m.effects.GivenUp, m.effects.GivenUpCause = msg.job.ID, why
	if msg.batch.qos < 2 {
		m.endAndAnnounce(s, &f)
		return
	}
	m.fail(s, f)
	m.notEarly(msg)
	msg.state, msg.unsure = received, false
	m.forget(msg)
	m.announce(msg.batch)
	m.releaseIfReady(s) // the journal may know it already, and will not be told again
}
