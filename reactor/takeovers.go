package reactor

import (
	"time"

	"github.com/job-publisher/reactor/internal/wait"
)

// takeovers recognizes that somebody who is no instance of this deployment uses the MQTT
// session of a lane, for example the instances of a copied database with the same deployment
// name, on the same broker. With each connection that one side makes, the broker closes the
// other's, and the packet ids of both get mixed in one session; a side that goes on sending
// loses messages without an error.
//
// A take-over by the lane's next owner is in order; after it the lease is not ours. A take-over
// while the lease is ours can come from an earlier owner that was frozen while it connected.
// More than a few mean that the session is shared: sending stops, and goes on when nobody takes
// over a connection on which nothing is sent.
//
// Some brokers close a connection that was taken over without a reason code (Mosquitto before
// 2.1). Then the session shows the take-over: there is a session, and it does not have our
// mark. This fails if sessions carry no marks, or the copy has the same mark. So when
// connections end again and again, the lane watches the next one for a while, and sends
// nothing. If that connection ends even so, and a second connection that was made beside it
// does not, the cause was neither a message nor the network. A broker that dies and restarts
// with an older saved state also has a session without our mark, but it could not be reached
// for a while.
type takeovers struct {
	recent     []time.Time   // take-overs within takeoverMemory
	pause      time.Duration // for how long the session is left alone; 0: it is not shared
	short      []time.Time   // when connections ended that had not lasted for shortLife
	aloneUntil time.Time     // until then short connections do not count: a watch has shown that nobody else was there
}

const (
	takeoverMemory = 2 * time.Minute
	// takeoverLimit is how many take-overs while the lease is ours mean that the session is
	// shared.
	takeoverLimit = 3
	// takeoverWatch is how long a connection has to last before anything is sent over it, after
	// take-overs.
	takeoverWatch = 3 * time.Second
	// leavePause is how long the lane leaves the session alone the first time.
	leavePause = 30 * time.Second
	// maxLeavePause bounds that pause, which doubles each time.
	maxLeavePause = 10 * time.Minute
	// shortLife: a connection that ends earlier is short. takeoverLimit short ones within
	// shortLives make the lane watch the next connection.
	shortLife  = 5 * time.Second
	shortLives = 30 * time.Second
	// watchHolds is how long the result of a watch is valid.
	watchHolds = time.Minute
)

// takenOver notes a take-over while the lease is ours, and returns for how long to leave the
// session alone, and whether that is because it is shared.
func (t *takeovers) takenOver(now time.Time) (pause time.Duration, shared bool) {
	recent := t.recent[:0]
	for _, at := range append(t.recent, now) {
		if now.Sub(at) < takeoverMemory {
			recent = append(recent, at)
		}
	}
	t.recent = recent
	if len(t.recent) < takeoverLimit && t.pause == 0 {
		return wait.Jitter(time.Second), false
	}
	t.recent = t.recent[:0]
	t.pause = min(max(2*t.pause, leavePause), maxLeavePause)
	// The pause is random, so that we are not in step with the other side, which may do the
	// same.
	return t.pause/2 + time.Duration(float64(t.pause)*wait.RandomShare()), true
}

// watch is how long to watch a new connection before anything is sent over it; 0: not at all.
func (t *takeovers) watch(now time.Time) time.Duration {
	if t.pause > 0 || len(t.recent) > 1 && now.Sub(t.recent[len(t.recent)-1]) < takeoverMemory ||
		len(t.short) >= takeoverLimit && now.Sub(t.short[0]) < shortLives && now.After(t.aloneUntil) {
		return takeoverWatch
	}
	return 0
}

// ended notes how long a connection lasted that the broker has ended.
func (t *takeovers) ended(now time.Time, life time.Duration) {
	if life > shortLife {
		t.short = t.short[:0]
		return
	}
	if len(t.short) == takeoverLimit {
		t.short = append(t.short[:0], t.short[1:]...)
	}
	t.short = append(t.short, now)
}

// away notes that the broker could not be reached, which explains why connections have ended.
func (t *takeovers) away() { t.short = t.short[:0] }

// endsForAll notes that connections end for all clients, because of the network or the broker.
func (t *takeovers) endsForAll(now time.Time) { t.aloneUntil = now.Add(watchHolds) }

// nobodyElse notes that nobody took the connection over during a watch. Earlier suspected
// take-overs alone don't make the session shared any more: that takes a take-over during a
// watch.
func (t *takeovers) nobodyElse(now time.Time) {
	t.pause, t.aloneUntil = 0, now.Add(watchHolds)
	t.recent = t.recent[:min(len(t.recent), 1)]
}
