package pgsource

import "time"

// pacer limits how often something happens: once in every on average, and in bursts of up to burst.
// An event that comes alone does not wait.
type pacer struct {
	every time.Duration
	burst int

	next time.Time // when the next event would be due without any burst
}

// take counts an event, and returns how long to wait before it.
func (p *pacer) take(now time.Time) time.Duration {
	if earliest := now.Add(-time.Duration(p.burst) * p.every); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(p.every)
	return max(0, p.next.Sub(now))
}
