package handoff

import "time"

// pace slows a lane down while the broker is over quota, which the broker says in its answers
// to messages. Such messages are not at fault, and this does not count as an attempt. They wait
// in the lane; when its slots are used up, claims stop.
//
// Each time, sending pauses, longer with each repetition, and goes on with half as many
// messages in flight. Each accepted message raises that limit again by one.
type pace struct {
	window int           // 0: as many as the broker allows at all
	rest   time.Duration // local instant before which nothing is sent
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

// over records a refusal while n messages were in flight, and returns how long to pause; 0 if
// the lane is pausing already.
func (p *pace) over(now time.Duration, n int) time.Duration {
	if p.resting(now) {
		return 0 // refusals of the other messages that were in flight with the first
	}
	p.window = max(1, n/2)
	d := max(p.next, minRest)
	p.next = min(2*d, maxRest)
	p.rest = now + d
	return d
}

// accepted records an accepted message.
func (p *pace) accepted(allowed int) {
	if p.window == 0 {
		return
	}
	p.next = 0
	if p.window++; p.window >= allowed {
		p.window = 0
	}
}
