package reactor

import (
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
)

// beatRequests asks for a heartbeat when another instance announces a change of the membership.
// Anybody who may connect to the database can send such notifications, as often as he likes,
// and each heartbeat writes. So the first request causes a heartbeat at once, and later ones
// are merged into one heartbeat every requestPause.
type beatRequests struct {
	beatNow wait.Signal
	last    time.Time // owned by the goroutine of the feed: when the latest heartbeat was asked for
	waiting atomic.Bool
}

// requestPause is short compared with the time that a hand-over of shards or lanes takes.
const requestPause = 20 * time.Millisecond

// request asks for a heartbeat. No request is lost: a heartbeat begins after each.
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
			r.waiting.Store(false) // before the heartbeat: a request from here on needs another one
			r.beatNow.Set()
		})
	}
}
