package pgsource

import "time"

// pacer lets something happen once in a while on average, and in bursts up to a limit: what
// comes alone waits for nothing.
type pacer struct {
	every time.Duration
	burst int

	next time.Time // when the next would happen, had there been no pause at all
}

// take returns how long to wait before the next.
func (p *pacer) take(now time.Time) time.Duration {
	if earliest := now.Add(-time.Duration(p.burst) * p.every); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(p.every)
	return max(0, p.next.Sub(now))
}
