package reactor

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestFloodOfNotices: the first of many is followed at once, the last one soon, and few of
// those in between.
func TestFloodOfNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l     limited
			done  = make(chan time.Duration, 1000)
			begun = time.Now()
		)
		action := func() { done <- time.Since(begun) }
		for range 1000 { // for a second
			l.do(action)
			time.Sleep(time.Millisecond)
		}
		last := time.Since(begun)
		time.Sleep(time.Second)
		if n := len(done); n < 15 || n > 25 {
			t.Errorf("followed %d times", n)
		}
		if first := <-done; first != 0 {
			t.Errorf("the first is followed after %v", first)
		}
		var latest time.Duration
		for len(done) > 0 {
			latest = <-done
		}
		if latest < last-time.Millisecond || latest > last+noticePause {
			t.Errorf("the last, at %v, is followed at %v", last, latest)
		}
	})
}
