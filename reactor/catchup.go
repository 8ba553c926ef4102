package reactor

import (
	"math"
	"time"
)

// catchUp paces the claims of jobs that are overdue (Config.CatchUpRate): a bucket that fills at the
// rate and holds a tenth of a second of it, so that claims stay large.
type catchUp struct {
	rate   int // jobs per second; 0: no limit
	tokens float64
	filled time.Duration // local, when tokens was brought up to date
}

// window is how much of the rate the bucket holds.
const window = time.Second / 10

// allow returns how many of n jobs may be taken now, and if that is none, in what time to ask again.
func (c *catchUp) allow(now time.Duration, n int) (most int, again time.Duration) {
	if c.rate == 0 {
		return n, never
	}
	full := max(1, float64(c.rate)*window.Seconds())
	c.tokens = min(full, c.tokens+float64(c.rate)*(now-c.filled).Seconds())
	c.filled = now
	// A claim for each job would cost more than the jobs.
	if least := min(full, float64(n)); c.tokens < least {
		return 0, time.Duration(math.Ceil((least - c.tokens) / float64(c.rate) * float64(time.Second)))
	}
	return min(n, int(c.tokens)), never
}

// back notes that n jobs that were taken have not been claimed: they were cancelled, or wait for others.
func (c *catchUp) back(n int) {
	if c.rate > 0 {
		c.tokens += float64(n)
	}
}

// took notes that n jobs were taken.
func (c *catchUp) took(n int) {
	if c.rate > 0 {
		c.tokens -= float64(n)
	}
}
