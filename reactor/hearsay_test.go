package reactor

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestHearsay: whoever floods the channel of the membership does not have every instance
// write without a pause; a single word is acted upon at once, and the last one always.
func TestHearsay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hearsay{beatNow: newSignal()}
		var beats int
		beaten := func() bool {
			synctest.Wait()
			select {
			case <-h.beatNow:
				beats++
				return true
			default:
				return false
			}
		}
		time.Sleep(time.Minute)
		for range 3 { // alone, it is not kept waiting
			if h.heard(); !beaten() {
				t.Fatal("a word is not acted upon")
			}
			time.Sleep(hearsayPause)
		}
		beats = 0
		for range 1000 {
			h.heard()
			beaten()
			time.Sleep(time.Millisecond)
		}
		if most := int(1000*time.Millisecond/hearsayPause) + 1; beats > most || beats < most/2 {
			t.Errorf("%d beats in a second of junk, want %d at most", beats, most)
		}
		h.heard()
		time.Sleep(hearsayPause)
		if !beaten() {
			t.Error("the last word is not acted upon")
		}
		time.Sleep(time.Minute)
		if beaten() {
			t.Error("a beat comes of nothing")
		}
	})
}
