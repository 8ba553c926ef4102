package pgsource

import (
	"errors"
	"strings"
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
		if _, _, _, err := s.timelines.see(place{timeline: timeline}); err != nil {
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

// TestTimelines: a later place is a move, an earlier one is refused, and an unknown one changes nothing.
func TestTimelines(t *testing.T) {
	var seen timelines
	cluster, later := uint64(0x6000_0000_0000_0001), uint64(0x9000_0000_0000_0000) // the upper half of the numbers is used up in 2038
	for i, step := range []struct {
		at      place
		want    move
		refused string
	}{
		{at: place{}},
		{at: place{timeline: 3}},
		{at: place{timeline: 3, database: 5, started: 30}},
		{at: place{}},
		{at: place{timeline: 5, database: 5, started: 50}, want: promoted},
		{at: place{timeline: 3, database: 5, started: 30}, want: formerPrimary, refused: "(on timeline 3, the latest is 5)"},
		{at: place{timeline: 5, database: 5, started: 51}, want: restarted},
		{at: place{timeline: 5, database: 5, started: 50}, want: restarted, refused: "is a second primary on timeline 5"},
		{at: place{system: cluster, timeline: 5, database: 5, started: 51}},
		{at: place{timeline: 5, started: 51}},
		{at: place{system: cluster, timeline: 6, database: 5, started: 60}, want: promoted},
		{at: place{system: later, timeline: 1, database: 5, started: 10}, want: otherDatabase},
		{at: place{system: cluster, timeline: 7, database: 5, started: 70}, want: earlierCluster, refused: "belongs to an earlier cluster"},
		{at: place{system: later, timeline: 1, database: 5, started: 10}},
		{at: place{system: later, timeline: 1, database: 6, started: 10}, want: otherDatabase},
	} {
		what, _, _, err := seen.see(step.at)
		former, why := new(formerServerError), ""
		if errors.As(err, &former) {
			why = former.briefly()
		}
		if what != step.want || (why != "") != (step.refused != "") || !strings.Contains(why, step.refused) {
			t.Errorf("step %d, %+v: %d, %v", i, step.at, what, err)
		}
	}
	if latest, failovers := seen.state(); latest != 1 || failovers != 4 || seen.now() != 5 {
		t.Errorf("on timeline %d after %d failovers, in era %d", latest, failovers, seen.now())
	}
	if !seen.untold() || seen.untold() {
		t.Error("the lanes are not told once of what they were not told")
	}
	if err := seen.journalRead(1, 4); err == nil {
		t.Error("a journal that was read at a server that was left counts")
	}
	if err := seen.journalRead(2, 5); err != nil || seen.mayClaim(2, 5) {
		t.Errorf("a lane claims from a database that was not checked: %v", err)
	}
	if seen.checked(4); !seen.elsewhere() {
		t.Error("what was checked was another database")
	}
	if seen.checked(5); seen.mayClaim(1, 5) || !seen.mayClaim(2, 5) || seen.mayClaim(2, 4) || seen.mayClaim(3, 5) {
		t.Error("a lane may claim whose journal was not read, or over a connection from before, or another may not")
	}
	for file, want := range map[string]uint32{"0000000A000000010000004F": 10, "000000010000000000000001": 1, "": 0, "0000": 0, "no timeline": 0} {
		if got := parseTimeline(file); got != want {
			t.Errorf("%q is of timeline %d, not %d", file, got, want)
		}
	}
}
