package page

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// hostile are texts that somebody may put into a topic, a name, or an error.
var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `</title></section><em>`, "`<s>`", `{{.}}`, `&lt;script&gt;`, `javascript:alert(1)`, "a\u202eb\x00c\x1b[31m", `<!--`, `]]>`, `\u003cscript\u003e`,
}

// evil is an overview whose every text is hostile.
func evil(text string) overviewView {
	status := pgsource.Status{
		At: driver.DBTimeOf(time.Now()), Deployment: text, Unowned: 3,
		Instances: []pgsource.InstanceStatus{
			{Name: text, Version: text, Feed: text, FeedProblem: text, Dynamic: true, Snapshot: &driver.Snapshot{Problems: []string{text}}},
			{Name: text, Silent: true, Beat: time.Minute},
		},
		Lanes:   []pgsource.LaneStatus{{Lane: 1, Instance: text, InFlight: 3}, {Lane: 2, InFlight: 1}},
		Next:    []pgsource.NextJob{{ID: 1, Topic: text, FireAt: driver.DBTimeOf(time.Now())}},
		Backlog: pgsource.Backlog{Due: pgsource.MostCounted + 1, Oldest: time.Hour, Blocked: 1},
	}
	stats := healthy
	stats.Feed.Problem = text
	return overviewOf("one", stats, stats.Health(), reading{at: time.Now(), tried: true, status: status, rate: 5, gone: []gone{{text, time.Now()}}}, time.Now())
}

// TestHostileTexts stay texts, in every template.
func TestHostileTexts(t *testing.T) {
	t.Parallel()
	check := func(text, name string, data any, more ...string) {
		t.Helper()
		got, err := render(name, data)
		if err != nil {
			t.Fatal(err)
		}
		shown := strings.ReplaceAll(strings.ToLower(string(got)), `<script type="module" src="/assets/page.js">`, "") // ours
		for _, tag := range append(more, "<script", "<img", "<em>", "<s>", "<!--", "\x00", "' on", `href="javascript:`) {
			if strings.Contains(shown, tag) {
				t.Errorf("%q becomes %q in %s:\n%s", text, tag, name, got)
			}
		}
	}
	for _, text := range hostile {
		data := evil(text)
		for _, name := range overviewParts {
			check(text, name, data, "\x1b", "\u202e") // fields of a form have a text as it is
		}
		job := pgsource.Job{ID: 1, State: pgsource.JobFailed, Topic: text, Key: text, Reason: text, WaitsFor: &pgsource.JobBefore{ID: 2}}
		form, _, _ := readJobsForm(url.Values{"key": {text}, "topic": {text}, "from": {text}, "until": {text}, "schedule": {text}, "code": {"1"}, "reason": {text}}, 0)
		for i, may := range []bool{true, false, true} {
			payload, size := []byte(text+"\n"+text), int64(1000)
			if i > 0 { // JSON, as a whole
				payload, _ = json.Marshal(map[string]any{text: []string{text}})
				size = int64(len(payload))
			}
			detail := jobViewOf(pgsource.JobDetail{Job: job, Payload: payload, PayloadSize: size, Headers: map[string]string{text: text}, ContentType: text, History: []pgsource.JobEvent{{What: text}}})
			detail.MayAct = may
			s := scheduleRowOf(pgsource.Schedule{Name: text, Cron: text, Zone: text, Problem: text, State: pgsource.ScheduleProblem, NextAt: time.Now(), LastAt: time.Now(), Message: pgsource.ScheduleMessage{Topic: text, Payload: text}})
			s.Runs, s.Words = []run{{1, fine, text}}, text
			for name, body := range map[string]any{
				"jobs":      jobsView{Form: form, Places: placesOf(nil, form.values()), Jobs: []jobRow{jobRowOf(job)}, Next: "/jobs?" + url.Values{"topic": {text}}.Encode(), Newer: newer(url.Values{"topic": {text}, "after": {text}, "trail": {text}}), Problem: text, MayAct: may},
				"confirm":   confirmation{Action: "fire", Name: text, Question: text, Back: safeNext("/jobs?" + text), Others: may},
				"job":       []jobView{detail},
				"failed":    failedView{Groups: []failedGroup{failedGroupOf(pgsource.FailedGroup{State: pgsource.JobFailed, Code: 151, Reason: text, Jobs: 5, Example: 7}, text)}, Topic: text, Problem: text, MayAct: may},
				"schedules": schedulesView{Schedules: []scheduleRow{s}, Problem: text},
				"schedule":  scheduleView{scheduleRow: s, Settings: settingsOf(s.Schedule), Occurrences: []occurrence{{time.Now(), text}}, MayAct: may},
			} {
				check(text, name, view{Body: body})
			}
			for _, whole := range []bool{true, false} {
				check(text, "failed", view{Body: failedView{ByTopic: true, Topic: text, Ways: []link{{failedLink(text, true), "By topic", true}}, Topics: []failedTopic{failedTopicOf(pgsource.FailedTopic{Topic: text, Whole: whole})}}})
			}
		}
		v := view{Nav: navigation("/jobs/1"), Note: text, Title: text, Window: text, Caller: caller{name: text, session: &session{}}, Content: "<p>ours</p>", Theme: "dark", Themes: themes, Path: safeNext("/" + text), Instance: text, Version: text, Build: "b"}
		check(text, "layout", v)
		check(text, "login", view{Body: loginForm{Next: safeNext("/x?" + text), Name: text, Problem: text}})
		check(text, "message", view{Body: message{text, "say `" + text}})
	}
}

// TestVerdict: what is wrong is said in plain words, the worst first, with what to do.
func TestVerdict(t *testing.T) {
	t.Parallel()
	at := time.Now()
	well := reading{at: at, tried: true, status: pgsource.Status{Instances: []pgsource.InstanceStatus{{Name: "one", Dynamic: true, Snapshot: &driver.Snapshot{Ready: true}}}}}
	for name, test := range map[string]struct {
		stats    func(*reactor.Stats)
		known    func(*reading)
		level    level
		headline string
		first    string
	}{
		"well":      {nil, nil, fine, "Everything is on time", ""},
		"not asked": {nil, func(r *reading) { *r = reading{} }, unknown, "Asking the database", ""},
		"no broker": {func(s *reactor.Stats) { s.LanesUp = 0 }, nil, bad, "This instance does not publish", "reactor check-broker"},
		"nobody": {func(s *reactor.Stats) { s.LanesUp = 0 }, func(r *reading) {
			r.status.Instances = append(r.status.Instances, pgsource.InstanceStatus{Name: "two", Dynamic: true, Snapshot: &driver.Snapshot{Problems: []string{"no connection to the broker is up"}}})
			r.status.Instances[0].Snapshot.Ready = false
		}, bad, "No instance publishes", "reactor check-broker"},
		"nobody, and late": {func(s *reactor.Stats) { s.LanesUp, s.OldestDue, s.LastAccepted = 0, time.Minute, time.Minute }, func(r *reading) {
			r.status.Instances[0].Snapshot.Ready = false
			r.status.Backlog = pgsource.Backlog{Due: 3, Oldest: time.Minute}
		}, bad, "No instance publishes", "reactor check-broker"},
		"no feed":         {func(s *reactor.Stats) { s.FeedUp = false }, nil, warning, "something needs attention", "--loop-frequency"},
		"no database":     {nil, func(r *reading) { r.err = errors.New("no answer") }, bad, "does not answer this page", "reactor doctor"},
		"silent instance": {nil, func(r *reading) { r.status.Instances[0] = pgsource.InstanceStatus{Name: "two", Silent: true} }, bad, "may be late", "start it again"},
		"late jobs":       {nil, func(r *reading) { r.status.Backlog = pgsource.Backlog{Due: 3, Oldest: time.Minute} }, bad, "Jobs are late", "More instances"},
		"late lately": {nil, func(r *reading) {
			r.status.Instances[0].Snapshot.Recent = driver.Recent{Jobs: 5, P99: 3 * time.Second}
		}, warning, "late in the last minute", "after their time"},
		"blocked":          {nil, func(r *reading) { r.status.Backlog.Blocked = 1 }, warning, "something needs attention", "--state blocked"},
		"shards of nobody": {nil, func(r *reading) { r.status.Unowned = 5 }, bad, "may be late", "Start an instance"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stats, known := healthy, well
			known.status.Instances = []pgsource.InstanceStatus{{Name: "one", Dynamic: true, Snapshot: &driver.Snapshot{Ready: true}}}
			if test.stats != nil {
				test.stats(&stats)
			}
			if test.known != nil {
				test.known(&known)
			}
			v := judge("one", stats.Health(), known)
			if v.Level != test.level || !strings.Contains(v.Headline, test.headline) || test.first == "" != (len(v.Issues) == 0) || len(v.Issues) > 0 && !strings.Contains(v.Issues[0].Remedy, test.first) {
				t.Errorf("%+v", v)
			}
		})
	}
}

// TestVerdictSaysTheCause: what only follows from it is not said, in the words that instances have for it.
func TestVerdictSaysTheCause(t *testing.T) {
	t.Parallel()
	texts := func(stats reactor.Stats, known reading) (all []string) {
		known.at, known.tried = time.Now(), true
		for _, i := range judge("one", stats.Health(), known).Issues {
			all = append(all, i.Text)
		}
		return all
	}
	two := func(problems ...string) pgsource.Status {
		return pgsource.Status{Instances: []pgsource.InstanceStatus{{Name: "one", Dynamic: true, Snapshot: &driver.Snapshot{}}, {Name: "two", Dynamic: true, Snapshot: &driver.Snapshot{Problems: problems}}}}
	}
	stuck := healthy
	stuck.OldestDue, stuck.LastAccepted, stuck.LastLoad = time.Hour, time.Hour, time.Hour
	says := stuck.Health().Problems
	if got := texts(stuck, reading{status: two(says...)}); len(says) != 2 || len(got) != 2 {
		t.Errorf("an instance says %q, and the page %q", says, got)
	}
	late := two(says...)
	late.Backlog = pgsource.Backlog{Due: 10, Oldest: time.Hour}
	if got := texts(stuck, reading{status: late}); len(got) != 1 || !strings.HasPrefix(got[0], "10 jobs should have been published by now") {
		t.Errorf("with a backlog it says %q", got)
	}
	stuck.LanesUp = 0
	if got := texts(stuck, reading{status: two()}); len(got) != 1 || got[0] != "no connection to the broker is up" {
		t.Errorf("without a broker it says %q", got)
	}
	stuck.LanesUp, stuck.LastBeat, stuck.LastClock, stuck.FeedUp = 3, time.Hour, time.Hour, false
	if got := texts(stuck, reading{status: two(), err: errors.New("connection refused")}); len(got) != 2 || !strings.Contains(got[0], "connection refused") || !strings.Contains(got[1], "heartbeat") {
		t.Errorf("without a database it says %q", got)
	}
}

// TestVerdictTellsBeside: jobs that have ended unpublished, and instances that have gone, are told beside a verdict that is good.
func TestVerdictTellsBeside(t *testing.T) {
	t.Parallel()
	known := reading{at: time.Now(), tried: true, gone: []gone{{"two", time.Now()}}, status: pgsource.Status{
		Backlog: pgsource.Backlog{Failed: 3, Retrying: 2},
		Lanes:   []pgsource.LaneStatus{{Lane: 1, Instance: "one"}, {Lane: 2}, {Lane: 3}, {Lane: 4, Instance: "one", InFlight: 5}},
	}}
	v := overviewOf("one", healthy, healthy.Health(), known, time.Now())
	html, err := render("verdict", v)
	if v.Verdict.Level != fine || err != nil || !strings.Contains(string(html), ">3 jobs ended without") || !strings.Contains(string(html), "<b>two</b> has been gone since") {
		t.Errorf("%v: %+v\n%s", err, v.Verdict, html)
	}
	for _, n := range v.Numbers {
		if (n.Level == warning) != (n.Label == "Tried again" || n.Label == "Not published") {
			t.Errorf("%+v", n)
		}
	}
	if len(v.Lanes) != 2 || v.IdleLanes != 2 {
		t.Errorf("%d lanes are shown, and %d are free", len(v.Lanes), v.IdleLanes)
	}
}

// TestJobTimes: only a job that was published has a time of that, and one that ended before it was sent has had no attempt.
func TestJobTimes(t *testing.T) {
	t.Parallel()
	for state, want := range map[pgsource.JobState]string{
		pgsource.JobFired: "Published ", pgsource.JobFailed: "Attempts ", pgsource.JobExpired: "", pgsource.JobMissed: "", pgsource.JobFiring: "",
	} {
		at := driver.DBTimeOf(time.Now())
		d := pgsource.JobDetail{Job: pgsource.Job{ID: 1, State: state, FireAt: at}, ProcessedAt: &at, Claim: "c"}
		if state != pgsource.JobFired && state != pgsource.JobFiring {
			d.Attempts = 1
		}
		got := ""
		for _, s := range jobViewOf(d).Settings {
			if s.Name == "Published" || s.Name == "Attempts" {
				got += s.Name + " "
			}
		}
		if got != want {
			t.Errorf("%s: it shows %q, want %q", state, got, want)
		}
	}
}

// TestLatenessTexts: what is long is in seconds, and what is too long to be counted says so.
func TestLatenessTexts(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{0: "0.00 ms", 123 * time.Microsecond: "0.12 ms", 9 * time.Second: "9,000 ms", 56*time.Second + 99*time.Millisecond: "56.1 s", time.Minute: "60+ s", time.Hour: "60+ s"} {
		value, unit := latenessText(d)
		if got := value + " " + unit; got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

// TestVerdictSaysThingsOnce: what several instances say is one issue, with the remedy of the part.
func TestVerdictSaysThingsOnce(t *testing.T) {
	t.Parallel()
	stats := healthy
	stats.LanesUp = 0
	say := func(name string) pgsource.InstanceStatus {
		return pgsource.InstanceStatus{Name: name, Dynamic: true, Snapshot: &driver.Snapshot{Problems: []string{"no connection to the broker is up"}}}
	}
	v := judge("one", stats.Health(), reading{at: time.Now(), tried: true, status: pgsource.Status{Instances: []pgsource.InstanceStatus{say("one"), say("two"), say("three")}}})
	if len(v.Issues) != 1 || strings.Join(v.Issues[0].Who, " ") != "one two three" || v.Issues[0].Remedy != remedies["broker"] {
		t.Errorf("%+v", v)
	}
}
