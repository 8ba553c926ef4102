package reactor

import (
	"strings"
	"testing"
	"time"
)

func TestHealth(t *testing.T) {
	well := Stats{
		LastBeat: time.Second, LastLoad: time.Second, LastClaim: -1, LastSettle: -1, LastAccepted: -1,
		Shards: 64, Lanes: 2, LanesUp: 2, FeedUp: true, Loop: 2 * time.Second,
	}
	for name, test := range map[string]struct {
		change func(*Stats)
		ready  bool
		want   string // in the problems; "": there are none
	}{
		"idle":                  {func(s *Stats) {}, true, ""},
		"not joined":            {func(s *Stats) { s.LastBeat, s.LastLoad = -1, -1 }, false, "not joined"},
		"database away":         {func(s *Stats) { s.LastBeat = 5 * time.Second }, false, "has not answered a heartbeat for 5s"},
		"no share":              {func(s *Stats) { s.Shards = 0 }, false, "no share"},
		"broker away":           {func(s *Stats) { s.LanesUp = 0 }, false, "no connection to the broker"},
		"one lane away":         {func(s *Stats) { s.LanesUp = 1 }, true, "not all connections"},
		"contested":             {func(s *Stats) { s.LanesUp, s.Contested = 0, 2 }, false, "somebody else"},
		"a little late":         {func(s *Stats) { s.OldestDue = 4 * time.Second }, true, ""},
		"stuck":                 {func(s *Stats) { s.OldestDue = 6 * time.Second }, false, "due for 6s, and nothing"},
		"stuck since a while":   {func(s *Stats) { s.OldestDue, s.LastAccepted = 9*time.Second, 6*time.Second }, false, "due for 9s, and nothing"},
		"catching up":           {func(s *Stats) { s.OldestDue, s.LastAccepted = 9*time.Second, 0 }, true, "others are being published"},
		"far behind":            {func(s *Stats) { s.OldestDue, s.LastAccepted = time.Minute, 0 }, false, "due for 1m0s"},
		"table locked":          {func(s *Stats) { s.LastLoad = 7 * time.Second }, false, "could not be read for 7s"},
		"no need to read":       {func(s *Stats) { s.LastLoad, s.LastAccepted = 7*time.Second, 0 }, true, ""},
		"a loop of a minute":    {func(s *Stats) { s.LastLoad, s.Loop = 2*time.Minute, time.Minute }, true, ""},
		"feed down":             {func(s *Stats) { s.FeedUp = false }, true, "not announced"},
		"rows in quarantine":    {func(s *Stats) { s.InQuarantine = 3 }, true, "3 jobs cannot be claimed"},
		"before the first load": {func(s *Stats) { s.LastLoad = -1 }, false, "not been read yet"},
		"a log that waits":      {func(s *Stats) { s.Feed.Problem = "the WAL feed waits" }, true, "the WAL feed waits"},
	} {
		s := well
		test.change(&s)
		h := s.Health()
		text := strings.Join(h.Problems, "; ")
		if h.Ready != test.ready || test.want == "" != (text == "") || !strings.Contains(text, test.want) {
			t.Errorf("%s: ready %t, %q; want %t, %q", name, h.Ready, text, test.ready, test.want)
		}
	}
}
