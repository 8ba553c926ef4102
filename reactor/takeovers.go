package reactor

import (
	"time"

	"github.com/job-publisher/reactor/reactor/internal/wait"
)

// takeovers recognizes that somebody who is no instance of this deployment uses the MQTT
// session of a lane: a copy of the database with the same name, on the same broker. The
// broker closes one connection for each that the other makes, and the packet ids of both
// get mixed in one session; who goes on sending loses messages without a word.
//
// A take-over by the lane's next owner is in order, and after it the lease is not ours. One
// while it is ours can be by an owner before us that had been frozen on the way to the broker.
// More than that means that the session is shared: sending stops, and goes on when nobody
// takes over a connection on which nothing is sent.
//
// Some brokers close a connection that was taken over without a word (Mosquitto before 2.1).
// Then it shows by the session: there is one, and it has not our mark. Where sessions carry
// no marks, or the copy has the same, connections that end again and again make us look at the
// next one for a while, and send nothing; if it ends all the same, and another connection that
// was made beside it does not, it was neither a message nor the network. A broker that dies and
// comes back with an older save has a session without our mark, too, but cannot be reached at
// once.
type takeovers struct {
	recent     []time.Time   // take-overs within takeoverMemory
	pause      time.Duration // for which the session is left alone; 0: it is not shared
	short      []time.Time   // when connections ended that had not lasted for shortLife
	aloneUntil time.Time     // until then such ends do not count: nobody else was there
}

const (
	takeoverMemory = 2 * time.Minute
	// takeoverLimit is how many take-overs while the lease is ours are one too many.
	takeoverLimit = 3
	// takeoverWatch is how long a connection has to last before anything is sent over it,
	// where there have been take-overs.
	takeoverWatch = 3 * time.Second
	// leavePause is how long the lane leaves the session alone, at first.
	leavePause = 30 * time.Second
	// maxLeavePause bounds it: it doubles.
	maxLeavePause = 10 * time.Minute
	// shortLife is too short for a connection, and takeoverLimit of those within
	// shortLives are worth a look.
	shortLife  = 5 * time.Second
	shortLives = 30 * time.Second
	// watchHolds is how long the result of a look holds.
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
	// Not in step with the other, who may well do the same.
	return t.pause/2 + time.Duration(float64(t.pause)*wait.RandomShare()), true
}

// watch is how long to look at a new connection before anything is sent over it.
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

// away notes that the broker could not be reached: that is why connections have ended.
func (t *takeovers) away() { t.short = t.short[:0] }

// endsForAll notes that connections end for everybody: the network's doing, or the broker's.
func (t *takeovers) endsForAll(now time.Time) { t.aloneUntil = now.Add(watchHolds) }

// nobodyElse notes that nobody else was there for a watch. What was taken for take-overs before
// it will not make the session a shared one by itself: that takes one that was watched.
func (t *takeovers) nobodyElse(now time.Time) {
	t.pause, t.aloneUntil = 0, now.Add(watchHolds)
	t.recent = t.recent[:min(len(t.recent), 1)]
}
