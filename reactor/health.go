package reactor

import (
	"fmt"
	"time"
)

// Health is what Stats come to.
type Health struct {
	// Ready: what is due fires.
	Ready bool
	// Problems are what is not as it should be, in words; some of them don't keep jobs from
	// firing.
	Problems []string
}

const (
	// silentBeat is how old the last heartbeat may be: after it nothing is sent any more.
	silentBeat = 4 * time.Second
	// stuckAfter is how late a job may be before something must be moving at least, and
	// how long ago the last message was accepted then.
	stuckAfter = 5 * time.Second
	// behindAfter is how late a job may be, whatever moves.
	behindAfter = 30 * time.Second
)

// Health judges by what was accomplished and by what was not: connections that are up, and a
// process that is alive, say little.
func (s Stats) Health() Health {
	h := Health{Ready: true}
	fatal := func(format string, args ...any) {
		h.Ready = false
		h.Problems = append(h.Problems, fmt.Sprintf(format, args...))
	}
	minor := func(text string) { h.Problems = append(h.Problems, text) }

	switch {
	case s.LastBeat < 0:
		fatal("this instance has not joined the others yet")
	case s.LastBeat > silentBeat:
		fatal("the database has not answered a heartbeat for %v", s.LastBeat.Round(time.Second))
	case s.Shards == 0:
		fatal("this instance has no share of the jobs")
	}
	switch {
	case s.LanesUp == 0:
		fatal("no connection to the broker is up")
	case s.LanesUp < s.Lanes:
		minor("not all connections to the broker are up")
	}
	if s.Contested > 0 {
		minor("somebody else uses the MQTT sessions of this deployment")
	}
	quiet := s.LastAccepted < 0 || s.LastAccepted > stuckAfter
	switch late := s.OldestDue.Round(time.Second); {
	case s.OldestDue > behindAfter:
		fatal("a job has been due for %v and is not published", late)
	case s.OldestDue > stuckAfter && quiet:
		fatal("a job has been due for %v, and nothing is being published", late)
	case s.OldestDue > stuckAfter:
		minor(fmt.Sprintf("a job has been due for %v; others are being published", late))
	}
	switch {
	case s.LastLoad < 0 && s.Shards > 0 && quiet:
		fatal("the table of jobs has not been read yet")
	case s.LastLoad > loadPatience(s.Loop) && quiet:
		fatal("the table of jobs could not be read for %v", s.LastLoad.Round(time.Second))
	}
	if !s.FeedUp {
		minor("new jobs are not announced; the sweep finds them")
	}
	if s.Feed.Problem != "" {
		minor(s.Feed.Problem)
	}
	if s.InQuarantine > 0 {
		minor(fmt.Sprintf("%d jobs cannot be claimed because of their rows, see reactor.failed_jobs", s.InQuarantine))
	}
	return h
}

// loadPatience is how old the last read of the table may be, which is made every loop.
func loadPatience(loop time.Duration) time.Duration { return max(3*loop, stuckAfter) }
