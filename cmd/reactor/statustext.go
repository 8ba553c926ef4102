package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
)

// writeStatus writes a status for people: what waits, what is next, the instances, and what is wrong.
func writeStatus(w io.Writer, s pgsource.Status) error {
	b := s.Backlog
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, value string) { fmt.Fprintf(t, "%s\t%s\n", name, value) }
	line("at", shortText(s.At.Time())+", on the database's clock")
	line("deployment", cli.Visible(s.Deployment)+", schema version "+fmt.Sprint(s.SchemaVersion))
	if feeds := words.Feeds(s); feeds != "" {
		line("new jobs by", cli.Visible(feeds))
	}
	due := words.Count(b.Due)
	if b.Due > 0 {
		due += ", the oldest for " + words.Duration(b.Oldest)
	}
	line("due now", due)
	line("within a minute", words.Count(b.Soon))
	line("being published", words.Jobs(b.Firing))
	if b.Retrying > 0 {
		line("to be tried again", words.Count(b.Retrying)+" (reactor jobs list --state retrying)")
	}
	if b.Blocked > 0 {
		line("blocked", words.Count(b.Blocked)+" (reactor jobs list --state blocked)")
	}
	if b.Failed > 0 {
		line("not published", words.Count(b.Failed)+" (reactor jobs list --state failed,expired,missed)")
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
	if problems := problemTexts(s); len(problems) > 0 {
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
		row := []string{i.Name, i.Version, words.Duration(s.At.Sub(i.Started)), words.State(i)}
		rest := []string{"", "", "", "", ""}
		if n := i.Snapshot; n != nil {
			if !i.Dynamic {
				shards = int(n.Shards) // its share is not in the tables
			}
			lanes = fmt.Sprintf("%d/%d", n.LanesUp, n.Lanes)
			rest = []string{words.Thousands(n.Pending), words.Thousands(n.Published), "", "", ""}
			if n.Recent.Jobs > 0 {
				rest = append(rest[:2], words.Millis(n.Recent.P50), words.Millis(n.Recent.P99), words.Millis(n.Recent.Max))
			}
		}
		rows = append(rows, append(append(row, fmt.Sprint(shards), lanes), rest...))
	}
	return writeTable(w, instanceColumns, rows)
}

// problemTexts are what is wrong, with the name of the instance that says so.
func problemTexts(s pgsource.Status) []string {
	texts := []string{}
	for _, p := range words.Problems(s) {
		texts = append(texts, p.String())
	}
	return texts
}
