package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/pgsource"
)

// writeStatus writes a status for people: what waits, what is next, the instances, and what is wrong.
func writeStatus(w io.Writer, s pgsource.Status) error {
	b := s.Backlog
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, value string) { fmt.Fprintf(t, "%s\t%s\n", name, value) }
	line("at", shortText(s.At.Time())+", on the database's clock")
	line("deployment", cli.Visible(s.Deployment)+", schema version "+fmt.Sprint(s.SchemaVersion))
	if feeds := feedsOf(s); feeds != "" {
		line("new jobs by", cli.Visible(feeds))
	}
	due := countText(b.Due)
	if b.Due > 0 {
		due += ", the oldest for " + shortDuration(b.Oldest)
	}
	line("due now", due)
	line("within a minute", countText(b.Soon))
	line("being published", jobsText(b.Firing))
	if b.Retrying > 0 {
		line("to be tried again", countText(b.Retrying)+" (reactor jobs list --state retrying)")
	}
	if b.Blocked > 0 {
		line("blocked", countText(b.Blocked)+" (reactor jobs list --state blocked)")
	}
	if b.Failed > 0 {
		line("not published", countText(b.Failed)+" (reactor jobs list --state failed,expired,missed)")
	}
	for i, j := range s.Next {
		name := ""
		if i == 0 {
			name = "next"
		}
		line(name, fmt.Sprintf("%s  job %d  %s", shortText(j.FireAt.Time()), j.ID, cli.Visible(j.Topic)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if len(s.Instances) == 0 {
		fmt.Fprintln(w, "no instance is running")
	} else if err := writeInstances(w, s); err != nil {
		return err
	}
	if problems := problemsOf(s); len(problems) > 0 {
		fmt.Fprintln(w)
		for _, p := range problems {
			fmt.Fprintln(w, cli.Visible(cli.InFlagTerms(p)))
		}
	}
	return nil
}

var instanceColumns = []column{
	{"INSTANCE", inTheHalf},
	{"VERSION", inTheHalf},
	{"UP", whole},
	{"STATE", whole},
	{"SHARDS", whole},
	{"LANES", whole},
	{"WAITING", whole},
	{"PUBLISHED", whole},
	{"LATE P50", whole},
	{"P99", whole},
	{"MAX", whole},
}

func writeInstances(w io.Writer, s pgsource.Status) error {
	var rows [][]string
	for _, i := range s.Instances {
		shards, lanes := i.Shards, fmt.Sprint(i.Lanes)
		row := []string{i.Name, i.Version, shortDuration(s.At.Sub(i.Started)), stateOf(i)}
		rest := []string{"", "", "", "", ""}
		if n := i.Snapshot; n != nil {
			if !i.Dynamic {
				shards = int(n.Shards) // its share is not in the tables
			}
			lanes = fmt.Sprintf("%d/%d", n.LanesUp, n.Lanes)
			rest = []string{thousands(n.Pending), thousands(n.Published), "", "", ""}
			if n.Recent.Jobs > 0 {
				rest = append(rest[:2], millis(n.Recent.P50), millis(n.Recent.P99), millis(n.Recent.Max))
			}
		}
		rows = append(rows, append(append(row, fmt.Sprint(shards), lanes), rest...))
	}
	return writeTable(w, instanceColumns, rows)
}

// feedsOf are the feeds that instances use: one, if nothing is being changed.
func feedsOf(s pgsource.Status) string {
	var feeds []string
	for _, i := range s.Instances {
		if i.Feed != "" && !i.Silent && !slices.Contains(feeds, i.Feed) {
			feeds = append(feeds, i.Feed)
		}
	}
	return strings.Join(feeds, ", ")
}

// stateOf is the state of an instance in a word.
func stateOf(i pgsource.InstanceStatus) string {
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

// problemsOf are what is wrong, with the name of the instance that says so.
func problemsOf(s pgsource.Status) (list []string) {
	dynamic, orphaned := len(s.Instances) == 0, int64(0)
	for _, i := range s.Instances {
		dynamic = dynamic || i.Dynamic
		switch {
		case i.Silent:
			list = append(list, fmt.Sprintf("%s: has sent no heartbeat for %s; the others take over, or have", i.Name, shortDuration(i.Beat)))
		case i.Snapshot != nil:
			for _, p := range i.Snapshot.Problems {
				list = append(list, i.Name+": "+p)
			}
		}
	}
	if s.Unowned > 0 && dynamic {
		list = append(list, fmt.Sprintf("nobody has %d of the 64 shards: their jobs wait for an instance", s.Unowned))
	}
	for _, l := range s.Lanes {
		if l.Instance == "" {
			orphaned += l.InFlight
		}
	}
	if orphaned > 0 {
		list = append(list, fmt.Sprintf("%s were left by instances that are gone; another one takes them over", jobsText(orphaned)))
	}
	return list
}

// countText is a number of jobs that are counted up to a bound.
func countText(n int64) string {
	if n > pgsource.MostCounted {
		return "more than " + jobsText(pgsource.MostCounted)
	}
	return jobsText(n)
}

// millis is a lateness.
func millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }

// shortDuration is a duration in its largest units: 3.2s, 5m12s, 7h5m, 12d3h.
func shortDuration(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(d, 0); {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < day:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}
