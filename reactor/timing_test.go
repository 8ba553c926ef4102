package reactor

import (
	"math"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestTimingSaturates: a sum never falls, whatever is added, and an absurdly long time does not
// outweigh the others.
func TestTimingSaturates(t *testing.T) {
	var g timing
	now := driver.DBTimeOf(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
	for range 10_000 {
		g.observe(now.Sub(driver.DistantPast), now.Sub(0), time.Millisecond)
	}
	if got := g.get(); got.Count != 30_000 || got.Sum != 20_000*time.Minute+10*time.Second || got.Max < time.Minute*99/100 {
		t.Errorf("summed up to %+v", got)
	}
	g.histogram.sum.Store(math.MaxInt64/int64(time.Microsecond) - 1)
	g.observe(time.Minute, -time.Minute)
	if got := g.get(); math.MaxInt64-got.Sum > time.Microsecond {
		t.Errorf("the sum went on to %v", got.Sum)
	}
}
