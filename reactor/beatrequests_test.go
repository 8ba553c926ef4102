package reactor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/reactor/internal/wait"
)

// TestBeatRequests: whoever floods the channel of the membership does not have every instance
// write without a pause; a single request is followed at once, and the last one always.
func TestBeatRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := beatRequests{beatNow: wait.NewSignal()}
		var beats int
		beaten := func() bool {
			synctest.Wait()
			select {
			case <-r.beatNow:
				beats++
				return true
			default:
				return false
			}
		}
		time.Sleep(time.Minute)
		for range 3 { // alone, it is not kept waiting
			if r.request(); !beaten() {
				t.Fatal("a request is not followed")
			}
			time.Sleep(requestPause)
		}
		beats = 0
		for range 1000 {
			r.request()
			beaten()
			time.Sleep(time.Millisecond)
		}
		if most := int(1000*time.Millisecond/requestPause) + 1; beats > most || beats < most/2 {
			t.Errorf("%d beats in a second of junk, want %d at most", beats, most)
		}
		r.request()
		time.Sleep(requestPause)
		if !beaten() {
			t.Error("the last request is not followed")
		}
		time.Sleep(time.Minute)
		if beaten() {
			t.Error("a beat comes of nothing")
		}
	})
}
