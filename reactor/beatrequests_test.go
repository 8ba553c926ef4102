package reactor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
)

// TestBeatRequests: a flood on the membership's channel does not make every instance write
// without a pause. A single request causes a heartbeat at once, and the last request always
// causes one.
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
		for range 3 { // a single request does not wait
			if r.request(); !beaten() {
				t.Fatal("no heartbeat follows a request")
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
			t.Errorf("%d heartbeats in a second of pointless requests, want %d at most", beats, most)
		}
		r.request()
		time.Sleep(requestPause)
		if !beaten() {
			t.Error("no heartbeat follows the last request")
		}
		time.Sleep(time.Minute)
		if beaten() {
			t.Error("a heartbeat without a request")
		}
	})
}
