package reactor

import (
	"fmt"
	"time"
)

// Health is a judgement of Stats.
type Health struct {
	// Ready tells that due jobs are published.
	Ready bool
	// Problems says in words what is wrong. Some problems don't stop jobs from being published.
	Problems []string
}

const (
	// silentBeat is how old the last heartbeat may be: beyond that age, no job is sent any
	// more.
	silentBeat = 4 * time.Second
	// stuckAfter: an instance is stuck if a job is later than this, and no message was accepted
	// for longer than this.
	stuckAfter = 5 * time.Second
	// behindAfter is how late a job may be even if others are published.
	behindAfter = 30 * time.Second
)

// Health judges by work that was done or not done: open connections and a live process prove
// little.
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

// loadPatience is how old the last read of the table may be. The table is read every loop.
func loadPatience(loop time.Duration) time.Duration { return max(3*loop, stuckAfter) }
