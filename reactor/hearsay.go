package reactor

import (
	"sync/atomic"
	"time"
)

// hearsay has beats follow what others say of the membership. Anybody who may connect to the
// database can say so, as often as he likes, and a beat writes: the first word is acted upon
// at once, those that follow it together, every hearsayPause.
type hearsay struct {
	beatNow signal
	last    time.Time // owned by the goroutine of the feed: of the latest beat asked for
	waiting atomic.Bool
}

// hearsayPause is short against what a change of hands takes, of which each is told.
const hearsayPause = 20 * time.Millisecond

// heard takes a word. None is forgotten: a beat begins after it.
func (h *hearsay) heard() {
	rest := hearsayPause - time.Since(h.last)
	if rest <= 0 {
		h.last = time.Now()
		h.beatNow.set()
		return
	}
	if h.waiting.CompareAndSwap(false, true) {
		h.last = h.last.Add(hearsayPause)
		time.AfterFunc(rest, func() {
			h.waiting.Store(false) // before the beat: what is heard from here on needs another
			h.beatNow.set()
		})
	}
}
