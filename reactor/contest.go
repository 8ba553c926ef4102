package reactor

import "time"

// contest recognizes that somebody who is no instance of this deployment uses the MQTT
// session of a lane: a copy of the database with the same name, on the same broker. The
// broker closes one connection for each that the other makes, and the packet ids of both
// get mixed in one session; who goes on sending loses messages without a word.
//
// A take-over by the lane's next owner is in order, and after it the lease is not ours. One
// while it is ours can be a latecomer, an owner before us that had been frozen on the way
// to the broker. More than that is a contest: sending stops, and goes on when nobody takes
// over a connection on which nothing is sent.
//
// Some brokers close a connection that was taken over without a word (Mosquitto before 2.1).
// Then it shows by the session: there is one, and it has not our mark. Where sessions carry
// no marks, or the copy has the same, connections that end again and again make us look at the
// next one for a while, and send nothing; if it ends all the same, and another connection that
// was made beside it does not, it was neither a message nor the network. A broker that dies and
// comes back with an older save has a session without our mark, too, but cannot be reached at
// once.
type contest struct {
	recent   []time.Time   // take-overs within contestMemory
	pause    time.Duration // the latest one; 0: there is no contest
	short    []time.Time   // when connections ended that had not lasted for shortLife
	innocent time.Time     // until then such ends do not count: nobody else was there
}

const (
	contestMemory = 2 * time.Minute
	// contestLimit is how many take-overs while the lease is ours are one too many.
	contestLimit = 3
	// contestWatch is how long a connection has to last before anything is sent over it,
	// where there have been take-overs.
	contestWatch = 3 * time.Second
	// contestPause is how long the lane leaves the session alone, at first.
	contestPause = 30 * time.Second
	// maxContestPause bounds it: it doubles.
	maxContestPause = 10 * time.Minute
	// shortLife is too short for a connection, and contestLimit of those within
	// shortLives are worth a look.
	shortLife  = 5 * time.Second
	shortLives = 30 * time.Second
	// innocence is how long a look holds.
	innocence = time.Minute
)

// takenOver notes a take-over while the lease is ours, and returns for how long to leave the
// session alone, and whether that is because of a contest.
func (c *contest) takenOver(now time.Time) (pause time.Duration, contested bool) {
	recent := c.recent[:0]
	for _, t := range append(c.recent, now) {
		if now.Sub(t) < contestMemory {
			recent = append(recent, t)
		}
	}
	c.recent = recent
	if len(c.recent) < contestLimit && c.pause == 0 {
		return jitter(time.Second), false
	}
	c.recent = c.recent[:0]
	c.pause = min(max(2*c.pause, contestPause), maxContestPause)
	// Not in step with the other, who may well do the same.
	return c.pause/2 + time.Duration(float64(c.pause)*randomShare()), true
}

// watch is how long to look at a new connection before anything is sent over it.
func (c *contest) watch(now time.Time) time.Duration {
	if c.pause > 0 || len(c.recent) > 1 && now.Sub(c.recent[len(c.recent)-1]) < contestMemory ||
		len(c.short) >= contestLimit && now.Sub(c.short[0]) < shortLives && now.After(c.innocent) {
		return contestWatch
	}
	return 0
}

// ended notes how long a connection lasted that the broker has ended.
func (c *contest) ended(now time.Time, life time.Duration) {
	if life > shortLife {
		c.short = c.short[:0]
		return
	}
	if len(c.short) == contestLimit {
		c.short = append(c.short[:0], c.short[1:]...)
	}
	c.short = append(c.short, now)
}

// away notes that the broker could not be reached: that is why connections have ended.
func (c *contest) away() { c.short = c.short[:0] }

// acquit notes that connections end for everybody: the network's doing, or the broker's.
func (c *contest) acquit(now time.Time) { c.innocent = now.Add(innocence) }

// quiet notes that nobody else was there for a watch. What was taken for take-overs before
// it will not make a contest by itself: that takes one that was watched.
func (c *contest) quiet(now time.Time) {
	c.pause, c.innocent = 0, now.Add(innocence)
	c.recent = c.recent[:min(len(c.recent), 1)]
}
