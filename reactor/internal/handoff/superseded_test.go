package handoff

import (
	"testing"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestSupersededBatches: a batch whose slots a later batch uses had left the journal before
// that.
func TestSupersededBatches(t *testing.T) {
	jobs := func(n int) []driver.Job { return make([]driver.Job, n) }
	live, ended := Superseded([]driver.Batch{
		{ID: 1, FirstSlot: driver.LaneSlots - 1, Jobs: jobs(4)}, // up to slot 2
		{ID: 2, FirstSlot: 10, Jobs: jobs(3)},
		{ID: 3, FirstSlot: 2, Jobs: jobs(8)}, // slots 2 to 9
		{ID: 4, FirstSlot: 20, Jobs: jobs(1)},
	})
	if len(live) != 3 || live[0].ID != 2 || live[1].ID != 3 || live[2].ID != 4 || len(ended) != 1 || ended[0].ID != 1 {
		t.Errorf("live %+v, ended %+v", live, ended)
	}
}
