package words

import (
	"fmt"
	"slices"
	"strings"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// Feeds are the feeds that instances use: one, if nothing is being changed.
func Feeds(s pgsource.Status) string {
	var feeds []string
	for _, i := range s.Instances {
		if i.Feed != "" && !i.Silent && !slices.Contains(feeds, i.Feed) {
			feeds = append(feeds, i.Feed)
		}
	}
	return strings.Join(feeds, ", ")
}

// State is the state of an instance in a word.
func State(i pgsource.InstanceStatus) string {
	switch {
	case i.Silent:
		return "silent"
	case i.Snapshot == nil:
		return "running" // it says no more
	case !i.Snapshot.Ready:
		return "not ready"
	case len(i.Snapshot.Problems) > 0:
		return "degraded"
	}
	return "ready"
}

// Problem is something that is wrong with a deployment.
type Problem struct {
	// Instance is the name of the one that says so; "": the tables say so.
	Instance string
	// Stops tells that jobs may wait because of it.
	Stops bool
	// Text is one line in plain words, Remedy says what to do about it.
	Text, Remedy string
}

// String begins with the name of the instance.
func (p Problem) String() string {
	if p.Instance == "" {
		return p.Text
	}
	return p.Instance + ": " + p.Text
}

// Problems are what is wrong with a deployment.
func Problems(s pgsource.Status) (list []Problem) {
	dynamic, orphaned := len(s.Instances) == 0, int64(0)
	for _, i := range s.Instances {
		dynamic = dynamic || i.Dynamic
		switch {
		case i.Silent:
			list = append(list, Problem{i.Name, true, fmt.Sprintf("has sent no heartbeat for %s; the others take over, or have", Duration(i.Beat)), "See whether its process and its host are alive, and start it again."})
		case i.Snapshot != nil:
			for _, p := range i.Snapshot.Problems {
				list = append(list, Problem{i.Name, !i.Snapshot.Ready, p, "Look at its log, and run `reactor doctor` with its flags."})
			}
		}
	}
	if s.Unowned > 0 && dynamic {
		what := fmt.Sprintf("nobody has %d of the 64 shards: their jobs wait for an instance", s.Unowned)
		if s.Unowned == driver.Shards {
			what = "no instance has any of the 64 shards: all jobs wait for one"
		}
		list = append(list, Problem{"", true, what, "Start an instance. Those that run take them over within seconds."})
	}
	for _, l := range s.Lanes {
		if l.Instance == "" {
			orphaned += l.InFlight
		}
	}
	if orphaned > 0 {
		list = append(list, Problem{"", true, fmt.Sprintf("%s were left by instances that are gone; another one takes them over", Jobs(orphaned)), "If this stays for more than some seconds, start an instance, and look at the logs of those that run."})
	}
	return list
}
