package reactor

import (
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/reactor/internal/wait"
)

// beatRequests has heartbeats follow what other instances say of the membership. Anybody who
// may connect to the database can say so, as often as he likes, and a heartbeat writes: the
// first request is followed at once, those after it together, every requestPause.
type beatRequests struct {
	beatNow wait.Signal
	last    time.Time // owned by the goroutine of the feed: of the latest beat asked for
	waiting atomic.Bool
}

// requestPause is short against what a change of hands takes, of which each is told.
const requestPause = 20 * time.Millisecond

// request asks for a heartbeat. None is forgotten: one begins after it.
func (r *beatRequests) request() {
	rest := requestPause - time.Since(r.last)
	if rest <= 0 {
		r.last = time.Now()
		r.beatNow.Set()
		return
	}
	if r.waiting.CompareAndSwap(false, true) {
		r.last = r.last.Add(requestPause)
		time.AfterFunc(rest, func() {
			r.waiting.Store(false) // before the beat: what is requested from here on needs another
			r.beatNow.Set()
		})
	}
}
