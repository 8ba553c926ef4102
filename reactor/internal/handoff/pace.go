package handoff

import "time"

// pace slows a lane down while the broker is over quota: it answers messages by saying so.
// They are not at fault and not counted as attempts, they wait in the lane, whose slots
// then stop the claims.
//
// Each time, sending rests for a while, longer as it repeats itself, and goes on with half
// as many messages in flight; every accepted one raises that again by one.
type pace struct {
	window int           // 0: as many as the broker allows at all
	rest   time.Duration // local instant: nothing is sent before
	next   time.Duration // how long the next rest takes
}

const (
	minRest = 50 * time.Millisecond
	maxRest = 5 * time.Second
)

// limit is how many messages may be in flight.
func (p *pace) limit(allowed int) int {
	if p.window > 0 {
		return min(p.window, allowed)
	}
	return allowed
}

func (p *pace) resting(now time.Duration) bool { return now < p.rest }

// over takes note of a refusal while n messages were in flight, and returns how long to
// rest; 0 if it is resting already.
func (p *pace) over(now time.Duration, n int) time.Duration {
	if p.resting(now) {
		return 0 // the others that were in flight with the first
	}
	p.window = max(1, n/2)
	d := max(p.next, minRest)
	p.next = min(2*d, maxRest)
	p.rest = now + d
	return d
}

// accepted takes note of an accepted message.
func (p *pace) accepted(allowed int) {
	if p.window == 0 {
		return
	}
	p.next = 0
	if p.window++; p.window >= allowed {
		p.window = 0
	}
}
