package page

import (
	"fmt"
	"html/template"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/job-publisher/reactor/internal/chart"
	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// overviewParts are the parts of the overview, in order. Each is a template.
var overviewParts = []string{"verdict", "numbers", "history", "future", "wheel", "next", "shards", "instances", "parts", "lanes"}

// overviewView is what the parts of the overview show.
type overviewView struct {
	Verdict   verdict
	Numbers   []number
	Next      []nextJob
	Status    pgsource.Status
	Known     bool // the database has answered once
	Instances []instanceRow
	Name      string // of this instance
	Parts     []partRow
	Lanes     []laneRow
	IdleLanes int // without an owner, and with nothing on its way
	Stats     reactor.Stats
	History   []figure
	Shards    *figure
	Future    []figure
	Wheel     *figure
}

// number is a figure with what it is of.
type number struct {
	Label, Value, Unit, Note string
	Link                     string // the jobs that it counts; "": there is no list of them
	Level                    level
}

type nextJob struct {
	ID    int64
	At    time.Time
	Topic string
}

type instanceRow struct {
	Letter               string // in the strip of the shards
	Name, Version, State string
	Level                level
	Here, Fixed          bool
	Since                time.Time
	Beat                 string
	Shards               int64
	Lanes, Waiting       string
	Published, Rate      string
	P50, P99, Max        string
}

type partRow struct {
	Name, State string
	Level       level
	Since       time.Time
	Problems    []string
}

type laneRow struct {
	Lane     int
	Owner    string
	InFlight string
}

// overview answers with the whole page; its script asks for what changes.
func (p *Page) overview(w http.ResponseWriter, r *http.Request, c caller) {
	s, ok := p.hub.first(r.Context())
	if !ok {
		w.Header().Set("Retry-After", "5")
		p.say(w, r, c, http.StatusServiceUnavailable, "This instance is about to end", "Ask another one, or this one again when it has been started.")
		return
	}
	p.write(w, r, http.StatusOK, "overview", view{Title: "Overview", Window: s.title, Caller: c, Live: true, Body: s.fragments})
}

// renderOverview makes the parts of the overview. A defect of ours in that must not end an instance that publishes.
func (p *Page) renderOverview(known reading) (fragments []fragment, title string) {
	defer func() {
		if defect := recover(); defect != nil {
			p.cfg.Logger.Error("the overview could not be made", "err", defect, "stack", string(debug.Stack()))
			fragments, title = nil, "no overview"
			for _, name := range overviewParts {
				fragments = append(fragments, fragment{ID: name, HTML: p.part("broken", name)})
			}
		}
	}()
	stats, health := p.cfg.Instance.Stats(), p.cfg.Instance.Health()
	v := overviewOf(p.cfg.Name, stats, health, known, time.Now())
	p.drawing.Lock()
	defer p.drawing.Unlock()
	v.Future, v.Wheel = p.axes.futureFigures(known.future), p.axes.wheelFigure(p.cfg.Instance.Ahead())
	v.History, v.Shards = p.axes.historyFigures(historyOf(known.status)), shardFigure(known.status)
	for _, name := range overviewParts {
		fragments = append(fragments, fragment{ID: name, HTML: p.part(name, v)})
	}
	return fragments, v.Verdict.Short
}

// part executes a template. If that fails, which is a defect of ours, the page says so instead of ending.
func (p *Page) part(name string, data any) template.HTML {
	html, err := render(name, data)
	if err != nil {
		p.cfg.Logger.Error("a part of the page could not be made", "part", name, "err", err)
		html, _ = render("broken", name)
	}
	return html
}

func overviewOf(name string, stats reactor.Stats, health reactor.Health, known reading, now time.Time) overviewView {
	v := overviewView{Verdict: judge(name, health, known), Status: known.status, Known: !known.at.IsZero(), Name: name, Stats: stats}
	for _, part := range health.Parts {
		row := partRow{Name: part.Name, State: part.State.String(), Level: partLevels[part.State], Since: now.Add(-part.For).Truncate(time.Second)}
		for _, text := range part.Problems {
			row.Problems = append(row.Problems, cli.InFlagTerms(text))
		}
		v.Parts = append(v.Parts, row)
	}
	if !v.Known {
		return v
	}
	v.Numbers = numbersOf(known)
	for _, j := range known.status.Next {
		v.Next = append(v.Next, nextJob{j.ID, j.FireAt.Time(), j.Topic})
	}
	for n, i := range known.status.Instances {
		row := instanceRowOf(i, i.Name == name)
		if row.Letter = chart.Letter(n); !i.Dynamic {
			row.Letter = ""
		}
		v.Instances = append(v.Instances, row)
	}
	for _, l := range known.status.Lanes {
		if l.Instance == "" && l.InFlight == 0 {
			v.IdleLanes++
			continue
		}
		v.Lanes = append(v.Lanes, laneRow{l.Lane, l.Instance, words.Thousands(l.InFlight)})
	}
	return v
}

var partLevels = map[reactor.State]level{reactor.Works: fine, reactor.Degraded: warning, reactor.Fails: bad}

// stateLevels are those of words.State.
var stateLevels = map[string]level{"ready": fine, "running": fine, "degraded": warning, "not ready": bad, "silent": bad}

func instanceRowOf(i pgsource.InstanceStatus, here bool) instanceRow {
	state := words.State(i)
	row := instanceRow{
		Name: i.Name, Version: i.Version, State: state, Level: stateLevels[state], Here: here, Fixed: !i.Dynamic,
		Since: i.Started.Time().Truncate(time.Second), Shards: int64(i.Shards), Lanes: fmt.Sprint(i.Lanes),
	}
	if i.Silent {
		row.Beat = words.Duration(i.Beat)
	}
	if n := i.Snapshot; n != nil {
		if !i.Dynamic {
			row.Shards = n.Shards // its share is not in the tables
		}
		row.Lanes = fmt.Sprintf("%d of %d", n.LanesUp, n.Lanes)
		row.Waiting, row.Published = words.Thousands(n.Pending), words.Thousands(n.Published)
		if n.Recent.Jobs > 0 {
			row.P50, row.P99, row.Max = ms(n.Recent.P50), ms(n.Recent.P99), ms(n.Recent.Max)
		}
	}
	return row
}

// mostLateness is the largest that instances count; any larger one is counted as that.
const mostLateness = time.Minute

// latenessText is a lateness, and its unit.
func latenessText(d time.Duration) (value, unit string) {
	switch {
	case d >= mostLateness:
		return "60+", "s"
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f", d.Seconds()), "s"
	}
	return ms(d), "ms"
}

// ms is a lateness in milliseconds, with as many digits as say something.
func ms(d time.Duration) string {
	n := float64(d.Microseconds()) / 1000
	switch {
	case d >= mostLateness:
		return "60,000+"
	case n < 10:
		return fmt.Sprintf("%.2f", n)
	case n < 100:
		return fmt.Sprintf("%.1f", n)
	}
	return words.Thousands(int64(n + 0.5))
}

// lateness is that of the jobs of the last minute: of the instance where it is largest.
type lateness struct {
	jobs           int64
	p50, p99, most time.Duration
}

func lately(s pgsource.Status) (of lateness) {
	for _, i := range s.Instances {
		if i.Snapshot != nil && !i.Silent && i.Snapshot.Recent.Jobs > 0 {
			r := i.Snapshot.Recent
			of = lateness{of.jobs + r.Jobs, max(of.p50, r.P50), max(of.p99, r.P99), max(of.most, r.Max)}
		}
	}
	return of
}

// numbersOf are the figures of the deployment.
func numbersOf(known reading) []number {
	of := lately(known.status)
	late := func(label string, d time.Duration) number {
		if of.jobs == 0 {
			return number{Label: label, Value: "–", Unit: "ms", Note: "none in the last minute"}
		}
		value, unit := latenessText(d)
		return number{Label: label, Value: value, Unit: unit, Note: "last minute"}
	}
	rate := number{Label: "Published", Value: "–", Unit: "/s", Note: "last ten seconds"}
	perSecond := known.rate
	if perSecond < 0 { // we have only begun to look
		if h := historyOf(known.status); len(h.Slices) > 0 {
			perSecond = h.PerSecond(h.Slices[len(h.Slices)-1])
		}
	}
	switch {
	case perSecond >= 10:
		rate.Value = words.Thousands(int64(perSecond + 0.5))
	case perSecond >= 0:
		rate.Value = fmt.Sprintf("%.1f", perSecond)
	}
	most := late("Late, most", of.most)
	if of.jobs > 0 { // on one line also if they are many
		most.Note = "of " + words.Thousands(of.jobs) + " published"
	}
	b := known.status.Backlog
	due := number{Label: "Due now", Value: few(b.Due), Note: "not published yet", Link: listDue}
	if b.Due > 0 {
		due.Note = "the oldest for " + words.Duration(b.Oldest)
		if b.Oldest > overdueAfter {
			due.Level = bad
		}
	}
	list := []number{
		rate, late("Late, p50", of.p50), late("Late, p99", of.p99), most, due,
		{Label: "Next minute", Value: few(b.Soon), Note: "fall due by then", Link: listMinute},
		{Label: "On their way", Value: words.Thousands(b.Firing), Note: "to the broker", Link: listFiring},
		{Label: "Tried again", Value: few(b.Retrying), Note: "refused by the broker", Link: listRetrying},
		{Label: "Blocked", Value: few(b.Blocked), Note: "by their rows", Link: listBlocked},
		{Label: "Not published", Value: few(b.Failed), Note: "failed, expired or missed", Link: "/failed"},
	}
	for i, n := range []int64{b.Retrying, b.Blocked, b.Failed} {
		if n > 0 {
			list[len(list)-3+i].Level = warning
		}
	}
	return list
}
