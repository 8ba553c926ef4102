package page

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// level is how bad something is. Its text is a class of the stylesheet.
type level string

const (
	fine    level = "ok"
	warning level = "warn"
	bad     level = "bad"
	unknown level = "unknown"
)

// verdict is what the page says first.
type verdict struct {
	Level    level
	Headline string
	Issues   []issue
	// Ended is how many jobs have ended without being published, in words; "": none.
	Ended string
	// Gone are the instances that have gone while somebody looked.
	Gone []gone
	// Short is the verdict in the title of the window.
	Short string
}

// issue is something that is wrong, and what to do about it.
type issue struct {
	Level        level
	Who          []string // the instances that say so
	Text, Remedy string
	// Link leads to what it is about, in the words of Leads; "": nowhere.
	Link, Leads string
}

// remedies say what to do if something is wrong with a part of the instance that serves the page.
var remedies = map[string]string{
	"database": "See whether PostgreSQL runs, and whether this instance reaches it: `reactor doctor` with the flags of the instance asks one by one. It connects again by itself.",
	"broker":   "`reactor check-broker` with the flags of the instance says what the broker answers. It connects again by itself.",
	"feed":     "Jobs that are not announced are found by the next sweep (--loop-frequency). `reactor doctor` says what the feed lacks.",
	"clock":    "Look at the load of the database, and at the network between it and this host.",
	"shards":   "With fixed shares, check --consumer-count and --consumer-index. Otherwise there are more instances than shards, and this one waits.",
	"lanes":    "`reactor check-broker` says what the broker answers. If others use the sessions, give each deployment its own --deployment.",
	"jobs":     "Look at the instance's log. `reactor jobs list --state blocked` has the jobs whose rows cannot be claimed, with the reasons.",
}

// overdueAfter is how long the oldest job may be due before we say that jobs are late. A burst takes its time.
const overdueAfter = 5 * time.Second

// lateAfter is the p99 of the last minute from which on we do not say that everything is on time.
const lateAfter = time.Second

// judge says what is wrong: by the word of this instance about itself, of the others about themselves, and of the tables.
func judge(name string, health reactor.Health, known reading) (v verdict) {
	// What several instances say is said once: with all their names, the worst of their levels, and the first remedy, which is
	// that of the part if this instance says it too.
	add := func(l level, who, text, remedy string, leads ...string) {
		text = cli.Visible(cli.InFlagTerms(text))
		at := slices.IndexFunc(v.Issues, func(i issue) bool { return i.Text == text })
		if at < 0 {
			v.Issues = append(v.Issues, issue{Level: l, Text: text, Remedy: remedy})
			at = len(v.Issues) - 1
		}
		i := &v.Issues[at]
		if len(leads) == 2 && i.Link == "" {
			i.Link, i.Leads = leads[0], leads[1]
		}
		if rank[l] > rank[i.Level] {
			i.Level = l
		}
		if who != "" && !slices.Contains(i.Who, who) {
			i.Who = append(i.Who, who)
		}
	}
	if known.err != nil {
		text := "the page cannot read the database: " + known.err.Error()
		if !known.at.IsZero() {
			text += fmt.Sprintf(" (what is below was read %s ago)", words.Duration(time.Since(known.at).Round(time.Second)))
		}
		add(bad, "", text, "`reactor doctor` with the flags of the instance says what is wrong. The page tries again by itself.")
	}
	backlog := known.status.Backlog
	late := backlog.Due > 0 && backlog.Oldest > overdueAfter
	fails := map[string]bool{}
	for _, part := range health.Parts {
		fails[part.Name] = part.State == reactor.Fails
	}
	for _, part := range health.Parts {
		if fails["database"] && (part.Name == "feed" || part.Name == "clock") {
			continue // which are by the database
		}
		l := warning
		if part.State == reactor.Fails {
			l = bad
		}
		for _, text := range part.Problems {
			if !(late || fails["database"] || fails["broker"]) || !follows(text) {
				add(l, name, text, remedies[part.Name], "#parts", "This instance")
			}
		}
	}
	for _, p := range words.Problems(known.status) {
		l := warning
		if p.Stops {
			l = bad
		}
		if p.Instance != name && !known.at.IsZero() && !(late && follows(p.Text)) {
			add(l, p.Instance, p.Text, p.Remedy, "#instances", "Instances")
		}
	}
	if late {
		remedy := ""
		if len(v.Issues) == 0 {
			remedy = "More is due than is published: wait, or see how busy the database, the broker and the hosts are. More instances or lanes may help."
		}
		add(bad, "", words.Count(backlog.Due)+" should have been published by now, the oldest "+words.Duration(backlog.Oldest)+" ago", remedy, listDue, "Show them")
	}
	if backlog.Blocked > 0 {
		add(warning, "", words.Count(backlog.Blocked)+" cannot be claimed because of their rows", "`reactor jobs list --state blocked` has the reasons: a trigger or a constraint of the table. They fire when their rows can be changed.", listBlocked, "Show them")
	}
	lately := lately(known.status)
	if lately.p99 > lateAfter && !late {
		add(warning, "", fmt.Sprintf("of the jobs of the last minute, one in a hundred was later than %s", words.Duration(min(lately.p99, mostLateness))), "They are published. Jobs that are inserted after their time count as late. If there were none, something was out of order that is well again, or the database, the broker or a host is busy.", "#instances", "Instances")
	}
	if n := backlog.Failed; n > 0 {
		v.Ended = words.Count(n)
	}
	v.Gone = known.gone
	v.Issues = worstFirst(v.Issues)
	switch {
	case !known.tried:
		v.Level, v.Headline, v.Short = unknown, "Asking the database…", "asking"
	case len(v.Issues) == 0:
		v.Level, v.Headline, v.Short = fine, "Everything is on time", "on time"
	case len(v.Issues) == 1 && lately.p99 > lateAfter && v.Issues[0].Level == warning:
		v.Level, v.Headline, v.Short = warning, "Jobs were late in the last minute", "was late"
	case v.Issues[0].Level == warning:
		v.Level, v.Headline, v.Short = warning, "Jobs are published, and something needs attention", "attention"
	case known.err != nil && fails["database"]:
		v.Level, v.Headline, v.Short = bad, "The database does not answer", "no database"
	case nobodyPublishes(health, known.status):
		v.Level, v.Headline, v.Short = bad, "No instance publishes", "nothing is published"
	case late:
		v.Level, v.Headline, v.Short = bad, "Jobs are late", "late"
	case !health.Ready:
		v.Level, v.Headline, v.Short = bad, "This instance does not publish", "not ready"
	case known.err != nil:
		v.Level, v.Headline, v.Short = bad, "The database does not answer this page", "no database"
	default:
		v.Level, v.Headline, v.Short = bad, "Jobs may be late", "may be late"
	}
	return v
}

// follows reports whether what an instance says of its jobs only follows from something that is said anyway: its database or its broker
// is gone, or the table says how many jobs are overdue.
func follows(text string) bool {
	return strings.HasPrefix(text, "a job has been due for ") || strings.HasPrefix(text, "the table of jobs could not be read ")
}

// nobodyPublishes reports whether this instance does not publish, and the others say the same of themselves.
func nobodyPublishes(health reactor.Health, s pgsource.Status) bool {
	return !health.Ready && len(s.Instances) > 0 && !slices.ContainsFunc(s.Instances, func(i pgsource.InstanceStatus) bool {
		return !i.Silent && (i.Snapshot == nil || i.Snapshot.Ready)
	})
}

// worstFirst puts what is bad before what is not, each in the order in which it was found.
func worstFirst(list []issue) (ordered []issue) {
	for _, l := range []level{bad, warning} {
		for _, i := range list {
			if i.Level == l {
				ordered = append(ordered, i)
			}
		}
	}
	return ordered
}

var rank = map[level]int{warning: 1, bad: 2}
