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
	g.sum = math.MaxInt64 - time.Duration(time.Second)
	g.observe(time.Minute, -time.Minute)
	if got := g.get(); got.Sum != math.MaxInt64 {
		t.Errorf("the sum went on to %v", got.Sum)
	}
}
