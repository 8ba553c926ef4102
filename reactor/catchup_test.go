package reactor

import (
	"testing"
	"time"
)

// TestCatchUpPaces: whatever is asked for, and however often, no more than the rate is taken, and
// nearly as much.
func TestCatchUpPaces(t *testing.T) {
	for _, rate := range []int{1, 7, 1000, 50_000} {
		c := catchUp{rate: rate}
		const length = 20 * time.Second
		taken, asked := 0, 0
		for now := time.Duration(0); now < length; asked++ {
			n, again := c.allow(now, 512)
			if n == 0 {
				if again <= 0 {
					t.Fatalf("rate %d: nothing is allowed, and nothing to wait for", rate)
				}
				now += again
				continue
			}
			c.took(n)
			taken += n
		}
		most := int(length.Seconds())*rate + max(1, rate/10)
		if taken > most || taken < most*9/10-1 {
			t.Errorf("rate %d: %d jobs in %v, want up to %d", rate, taken, length, most)
		}
		if asked > 2*taken+10 {
			t.Errorf("rate %d: asked %d times for %d jobs", rate, asked, taken)
		}
	}
	var free catchUp
	if n, _ := free.allow(0, 512); n != 512 {
		t.Errorf("without a rate %d of 512", n)
	}
}
