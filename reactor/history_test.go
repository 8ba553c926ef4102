package reactor

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestHistoryOfASteadyLoad: the slices show the load as it is, whenever heartbeats come.
func TestHistoryOfASteadyLoad(t *testing.T) {
	var (
		h    history
		late timing
		now  = driver.DBTime(1_764_446_400_000_000)
	)
	random := rand.New(rand.NewPCG(1, 2))
	h.get(now, late.histogram.get())
	for end := now.Add(6 * time.Minute); now < end; {
		beat := time.Duration(300+random.IntN(900)) * time.Millisecond
		if random.IntN(50) == 0 {
			beat = 25 * time.Second // the database does not answer, and messages arrive
		}
		for range beat / time.Millisecond {
			late.observe(200 * time.Microsecond)
		}
		now = now.Add(beat)
		h.get(now, late.histogram.get())
	}
	got := h.get(now, late.histogram.get())
	if len(got.Slices) != driver.HistorySlices || got.Slice != driver.HistorySlice || now.Sub(got.Until) >= driver.HistorySlice || got.Until > now || got.Until%10_000_000 != 0 {
		t.Errorf("%+v", got)
	}
	for i, s := range got.Slices {
		if s.Jobs < 9_990 || s.Jobs > 10_010 || !about(s.P10, 200*time.Microsecond) || !about(s.P99, 200*time.Microsecond) || !about(s.Max, 200*time.Microsecond) {
			t.Errorf("slice %d: %+v", i, s)
		}
	}
}

// TestHistoryForgets: a slice tells of its own time, an idle one of nothing, and when the database's clock is set, or
// nothing was asked for long, it begins anew.
func TestHistoryForgets(t *testing.T) {
	var (
		h    history
		late timing
		now  = driver.DBTime(1_764_446_400_000_000)
	)
	after := func(d time.Duration) []driver.Slice {
		now = now.Add(d)
		return h.get(now, late.histogram.get()).Slices
	}
	late.observe(time.Hour) // before anybody asked
	if got := after(0); len(got) != 0 {
		t.Errorf("at first: %+v", got)
	}
	late.observe(time.Second, 2*time.Second)
	if got := after(9 * time.Second); len(got) != 0 {
		t.Errorf("before the first slice ends: %+v", got)
	}
	if got := after(time.Second); len(got) != 1 || got[0].Jobs != 2 || !about(got[0].Max, 2*time.Second) || !about(got[0].P50, time.Second) {
		t.Errorf("one slice: %+v", got)
	}
	if got := after(10 * time.Second); len(got) != 2 || got[1] != (driver.Slice{}) {
		t.Errorf("and one without jobs: %+v", got)
	}
	late.observe(time.Millisecond)
	if got := after(10 * time.Second); len(got) != 3 || got[2].Jobs != 1 || !about(got[2].Max, time.Millisecond) {
		t.Errorf("and one with a job: %+v", got)
	}
	if got := after(time.Hour); len(got) != 0 {
		t.Errorf("after an hour: %+v", got)
	}
	after(10 * time.Second)
	if got := after(-time.Hour); len(got) != 0 {
		t.Errorf("when the clock is set back: %+v", got)
	}
	now = -1 // before 1970
	after(-time.Hour)
	if got := h.get(now, late.histogram.get()); got.Until%10_000_000 != 0 || got.Until > now {
		t.Errorf("%+v", got)
	}
}
