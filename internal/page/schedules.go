package page

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/schedule"
)

// schedulesView is the list of schedules.
type schedulesView struct {
	Schedules []scheduleRow
	Next      string // the address of the next page; "": there is none
	Problem   string
}

// scheduleRow is a schedule in the list.
type scheduleRow struct {
	pgsource.Schedule
	Recurs string
	Words  string // the same in English; "": there are no words for it
	Level  level
	Link   string
	Jobs   string // the list of its jobs
	Runs   []run  // the oldest first
}

// run is a job of a schedule that has ended, or is under way.
type run struct {
	ID    int64
	Level level
	Title string
}

// scheduleView is a schedule with what comes next.
type scheduleView struct {
	scheduleRow
	Settings    []setting
	Occurrences []occurrence
	MayAct      bool
	ReadOnly    bool
}

// occurrence is one in the zone of the schedule; the script shows the same in that of the viewer.
type occurrence struct {
	At   time.Time
	Zone string
}

var scheduleLevels = map[pgsource.ScheduleState]level{pgsource.ScheduleActive: fine, pgsource.SchedulePaused: warning, pgsource.ScheduleProblem: bad, pgsource.ScheduleEnded: unknown}

func scheduleLink(name string) string { return "/schedule?" + url.Values{"name": {name}}.Encode() }

func scheduleRowOf(s pgsource.Schedule) scheduleRow {
	recurs := s.Cron + ", " + s.Zone
	if s.Cron == "" {
		recurs = "every " + s.Every.String()
	}
	return scheduleRow{
		Schedule: s, Recurs: recurs, Words: schedule.Words(schedule.Spec{Cron: s.Cron, Every: s.Every, Zone: s.Zone}),
		Level: scheduleLevels[s.State], Link: scheduleLink(s.Name),
		Jobs: "/jobs?" + url.Values{"schedule": {s.Name}}.Encode(),
	}
}

// runsShown is how many of the last runs of a schedule are shown.
const runsShown = 20

func runsOf(list []pgsource.ScheduleRun) (runs []run) {
	for _, r := range slices.Backward(list) {
		runs = append(runs, run{r.ID, jobLevels[r.State], r.OccurrenceAt.Time().Format("2006-01-02 15:04:05 UTC") + ": " + string(r.State)})
	}
	return runs
}

func (p *Page) showSchedules(w http.ResponseWriter, r *http.Request, c caller) {
	var v schedulesView
	err := p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) error {
		list, more, err := a.Schedules(r.Context(), pgsource.ScheduleFilter{After: r.URL.Query().Get("after"), Limit: listed})
		for _, s := range list {
			v.Schedules = append(v.Schedules, scheduleRowOf(s))
		}
		if err != nil || len(list) == 0 {
			return err
		}
		var names []string
		for _, s := range list {
			names = append(names, s.Name)
		}
		runs, err := a.LastRuns(r.Context(), names, runsShown)
		for i, name := range names {
			v.Schedules[i].Runs = runsOf(runs[name])
		}
		if more {
			v.Next = "/schedules?" + url.Values{"after": {list[len(list)-1].Name}}.Encode()
		}
		return err
	})
	if err != nil {
		v.Problem = err.Error()
	}
	p.write(w, r, http.StatusOK, "schedules", view{Title: "Schedules", Caller: c, Refresh: true, Body: v})
}

// occurrencesShown is how many the page of a schedule has.
const occurrencesShown = 10

func (p *Page) showSchedule(w http.ResponseWriter, r *http.Request, c caller) {
	name := r.URL.Query().Get("name")
	var v scheduleView
	err := p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) error {
		s, err := a.Schedule(r.Context(), name)
		if err != nil {
			return err
		}
		v.scheduleRow = scheduleRowOf(s)
		runs, err := a.LastRuns(r.Context(), []string{name}, runsShown)
		if err != nil {
			return err
		}
		v.Runs = runsOf(runs[name])
		if s.State == pgsource.ScheduleProblem || s.State == pgsource.ScheduleEnded {
			return nil
		}
		list, zone, err := a.NextOccurrences(r.Context(), name, occurrencesShown)
		for _, o := range list {
			v.Occurrences = append(v.Occurrences, occurrence{o.At, o.At.In(zone).Format("Mon 2006-01-02 15:04:05 MST")})
		}
		return err
	})
	switch {
	case errors.Is(err, pgsource.ErrNoSchedule):
		p.say(w, r, c, http.StatusNotFound, "There is no such schedule", "It was never there, or it was deleted.")
		return
	case err != nil:
		p.sayError(w, r, c, err)
		return
	}
	v.Settings, v.MayAct, v.ReadOnly = settingsOf(v.Schedule), p.mayAct(c), p.cfg.ReadOnly
	p.write(w, r, http.StatusOK, "schedule", view{Title: "Schedule " + name, Caller: c, Refresh: true, Body: v})
}

func settingsOf(s pgsource.Schedule) (list []setting) {
	add := func(name, value string) {
		if value != "" {
			list = append(list, setting{Name: name, Value: value})
		}
	}
	at := func(name string, t time.Time) {
		if !t.IsZero() {
			list = append(list, setting{Name: name, Time: &t})
		}
	}
	add("Topic", s.Message.Topic)
	payload := visibleLines(s.Message.Payload)
	if utf8.RuneCountInString(s.Message.Payload) >= pgsource.PreviewBytes { // of which no more is read
		payload += "…"
	}
	add("Payload", payload)
	at("Last occurrence", s.LastAt)
	at("Begins", s.StartAt)
	at("Ends", s.EndAt)
	if s.Jitter > 0 {
		add("Jitter", s.Jitter.String())
	}
	add("Overlap", s.Overlap)
	add("Catching up", fmt.Sprintf("%s, of the last %s", s.CatchUp, words.Duration(s.CatchUpWindow)))
	if s.MaxLateness > 0 {
		add("Missed if later than", s.MaxLateness.String())
	}
	if s.Overlapped > 0 {
		add("Left out because of overlap", words.Thousands(s.Overlapped))
	}
	at("Made", s.CreatedAt)
	return list
}

// actOnSchedule pauses, resumes or runs a schedule.
func (p *Page) actOnSchedule(w http.ResponseWriter, r *http.Request, c caller) {
	name, action := r.PostForm.Get("name"), r.PostForm.Get("action")
	text := ""
	err := p.cfg.Jobs.Change(r.Context(), func(a *pgsource.JobsAdmin) (err error) {
		switch action {
		case "pause":
			text = "It is paused: its jobs that were not claimed are gone."
			return a.PauseSchedule(r.Context(), name)
		case "resume":
			text = "It goes on."
			return a.ResumeSchedule(r.Context(), name)
		case "run":
			var id int64
			id, err = a.RunSchedule(r.Context(), name)
			text = fmt.Sprintf("Job %d is due now.", id)
			return err
		}
		return fmt.Errorf("there is no such action as %q", action)
	})
	p.cfg.Logger.Info("a schedule was changed on the page", "who", c.name, "from", c.from.String(), "action", action, "schedule", name, "err", err)
	if err != nil {
		p.sayError(w, r, c, err)
		return
	}
	p.done(w, r, scheduleLink(name), text)
}
