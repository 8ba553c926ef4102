package pgsource

import (
	"errors"
	"testing"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestFailoverBetweenFeeds: a failover that is seen while no feed runs is told when the next one begins, whether
// that stands or not, and once. The lanes claim nothing before.
func TestFailoverBetweenFeeds(t *testing.T) {
	t.Parallel()
	s, err := New(Config{DatabaseURL: "postgres://127.0.0.1:1/app", Feed: FeedNotify})
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	on := func(h driver.Hint) {
		if h.Kind == driver.HintFailover {
			told++
		}
	}
	for i, timeline := range []uint32{1, 2, 2, 3} {
		if _, _, err := s.timelines.see(timeline); err != nil {
			t.Fatal(err)
		}
		if err := s.Listen(t.Context(), on); err == nil {
			t.Fatal("there is no server, and the feed ends without an error")
		}
		if want := []int{0, 1, 1, 2}[i]; told != want {
			t.Errorf("step %d: told %d times, want %d", i, told, want)
		}
	}
}

// TestTimelines: a later timeline is a failover, an earlier one is refused, and an unknown one
// changes nothing.
func TestTimelines(t *testing.T) {
	var seen timelines
	for i, step := range []struct {
		timeline uint32
		failed   bool
		refused  bool
	}{{0, false, false}, {3, false, false}, {3, false, false}, {0, false, false}, {5, true, false}, {3, false, true}, {5, false, false}, {6, true, false}} {
		failed, _, err := seen.see(step.timeline)
		former := new(formerPrimaryError)
		if failed != step.failed || errors.As(err, &former) != step.refused {
			t.Errorf("step %d, timeline %d: failed over %t, %v", i, step.timeline, failed, err)
		}
	}
	if latest, failovers := seen.state(); latest != 6 || failovers != 2 {
		t.Errorf("on timeline %d after %d failovers", latest, failovers)
	}
	if !seen.untold() || seen.untold() {
		t.Error("the lanes are not told once of what they were not told")
	}
	seen.journalRead(1, 5)
	seen.journalRead(2, 6)
	if seen.mayClaim(1) || !seen.mayClaim(2) || seen.mayClaim(3) {
		t.Error("a lane may claim whose journal was not read, or another may not")
	}
	for file, want := range map[string]uint32{"0000000A000000010000004F": 10, "000000010000000000000001": 1, "": 0, "0000": 0, "no timeline": 0} {
		if got := parseTimeline(file); got != want {
			t.Errorf("%q is of timeline %d, not %d", file, got, want)
		}
	}
}
