package page

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// listed is how many jobs a page of a list has, and actedOn how many one action changes at most.
const (
	listed  = 50
	actedOn = 10_000
)

// jobsView is a list of jobs, and the form that selects them.
type jobsView struct {
	Form     jobsForm
	Jobs     []jobRow
	ByID     bool   // the newest ids come first; otherwise the next to fire
	Next     string // the address of the next page; "": there is none
	Broken   bool   // the search was broken off, because it had read enough
	Problem  string
	MayAct   bool
	ReadOnly bool
	Confirm  *confirmation
}

// jobsForm is what was asked for.
type jobsForm struct {
	Key, Topic, From, Until string
	States                  []choice
	Reason                  *pgsource.JobReason // the only reason; nil: any
	Hidden                  [][2]string         // all of it, for the form of an action
}

type choice struct {
	Name string
	On   bool
}

// jobRow is a job in a list.
type jobRow struct {
	pgsource.Job
	Fires time.Time
	Level level
}

// confirmation asks whether an action is meant.
type confirmation struct {
	Action, Question string
	Name             string // of the question
	Back             string // where to go if the answer is no
}

var jobLevels = map[pgsource.JobState]level{
	pgsource.JobFired: fine, pgsource.JobFiring: fine, pgsource.JobRetrying: warning, pgsource.JobReturning: warning,
	pgsource.JobBlocked: bad, pgsource.JobFailed: bad, pgsource.JobExpired: bad, pgsource.JobMissed: bad, pgsource.JobWaiting: unknown,
}

func jobRowOf(j pgsource.Job) jobRow { return jobRow{j, j.FireTime(), jobLevels[j.State]} }

// readJobsForm reads what is asked for, from an address or a form.
func readJobsForm(q url.Values, now driver.DBTime) (f jobsForm, filter pgsource.JobFilter, err error) {
	f = jobsForm{Key: q.Get("key"), Topic: q.Get("topic"), From: q.Get("from"), Until: q.Get("until")}
	filter = pgsource.JobFilter{Key: f.Key, TopicPrefix: f.Topic}
	for _, s := range pgsource.JobStates {
		on := slices.Contains(q["state"], string(s))
		f.States = append(f.States, choice{string(s), on})
		if on {
			filter.States = append(filter.States, s)
		}
	}
	if q.Has("code") && q.Has("reason") {
		code, _ := strconv.Atoi(q.Get("code")) // 0, which none of the broker's has
		f.Reason = &pgsource.JobReason{Code: code, Reason: q.Get("reason")}
		filter.Because = f.Reason
	}
	if filter.From, err = timeIn(f.From, now); err == nil {
		filter.Until, err = timeIn(f.Until, now)
	}
	for _, name := range []string{"key", "topic", "from", "until", "state", "code", "reason"} {
		for _, value := range q[name] {
			if value != "" || name == "reason" {
				f.Hidden = append(f.Hidden, [2]string{name, value})
			}
		}
	}
	return f, filter, err
}

// showJobs lists jobs. An id leads to the job.
func (p *Page) showJobs(w http.ResponseWriter, r *http.Request, c caller) {
	q := r.URL.Query()
	if id := strings.TrimSpace(q.Get("id")); id != "" {
		if _, err := strconv.ParseInt(id, 10, 64); err == nil {
			http.Redirect(w, r, "/jobs/"+id, http.StatusSeeOther)
			return
		}
	}
	v := jobsView{MayAct: p.mayAct(c), ReadOnly: p.cfg.ReadOnly}
	err := p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) error {
		now, err := a.Now(r.Context())
		if err != nil {
			return err
		}
		form, filter, err := readJobsForm(q, now)
		v.Form = form
		if err != nil {
			return err
		}
		page := pgsource.SearchPage{Limit: listed}
		if after := q.Get("after"); after != "" {
			cursor, err := pgsource.ParseSearchCursor(after)
			if err != nil {
				return fmt.Errorf("the address %w", err)
			}
			page.After = &cursor
		}
		found, err := a.Search(r.Context(), filter, page)
		for _, j := range found.Jobs {
			v.Jobs = append(v.Jobs, jobRowOf(j))
		}
		v.ByID = found.ByID
		if found.Next != nil {
			v.Broken = len(found.Jobs) < listed
			q.Set("after", found.Next.String())
			q.Del("note")
			v.Next = "/jobs?" + q.Encode()
		}
		return err
	})
	if err != nil {
		v.Problem = err.Error()
	}
	if v.Form.States == nil { // the database did not answer at all
		v.Form, _, _ = readJobsForm(q, 0)
	}
	p.write(w, r, http.StatusOK, "jobs", view{Title: "Jobs", Caller: c, Body: v})
}

// actOnJobs changes the jobs that a form selects: after it has been asked whether they are meant, and no others.
func (p *Page) actOnJobs(w http.ResponseWriter, r *http.Request, c caller) {
	if name := r.PostForm.Get("question"); name != "" {
		p.actAsAsked(w, r, c, name)
		return
	}
	v := jobsView{MayAct: true}
	asked := question{who: c.name}
	more := false
	err := p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) error {
		now, err := a.Now(r.Context())
		if err != nil {
			return err
		}
		if v.Form, asked.filter, err = readJobsForm(r.PostForm, now); err != nil {
			return err
		}
		if asked.action, err = actionOf(r.PostForm, now); err != nil {
			return err
		}
		// Only those that it can change are asked about.
		filter := asked.filter
		if len(filter.States) == 0 {
			filter.States = asked.action.Acts
		} else {
			filter.States = slices.DeleteFunc(slices.Clone(filter.States), func(s pgsource.JobState) bool { return !slices.Contains(asked.action.Acts, s) })
		}
		if len(filter.States) > 0 {
			asked.ids, more, err = a.SelectSome(r.Context(), filter, actedOn)
		}
		return err
	})
	if err != nil {
		p.say(w, r, c, http.StatusBadRequest, "Nothing was changed", err.Error())
		return
	}
	asked.back, asked.what = "/jobs", url.Values(v.Form.values()).Encode()
	if v.Form.Reason != nil {
		asked.back = "/failed"
	} else if asked.what != "" {
		asked.back += "?" + asked.what
	}
	if len(asked.ids) == 0 {
		p.done(w, r, asked.back, "No job that matches can be changed by this: "+asked.action.Name+".")
		return
	}
	number := words.Jobs(int64(len(asked.ids)))
	if more {
		number = "the first " + number + " that match"
	}
	if r.PostForm.Get("action") == "reschedule" {
		number += " to " + strings.TrimSpace(r.PostForm.Get("at"))
	}
	text := capital(asked.action.Name) + " " + number + "?"
	if more {
		text += " There may be more."
	}
	v.Confirm = &confirmation{Action: asked.action.Name, Question: text, Back: asked.back, Name: p.questions.ask(asked)}
	p.write(w, r, http.StatusOK, "confirm", view{Title: text, Caller: c, Body: v})
}

// actAsAsked changes the jobs of a question to which the answer is yes.
func (p *Page) actAsAsked(w http.ResponseWriter, r *http.Request, c caller, name string) {
	q, ok := p.questions.answer(name, c.name)
	if !ok {
		p.say(w, r, c, http.StatusConflict, "Nothing was changed", "This question was answered already, or is older than "+words.Duration(questionLife)+", or was asked by another instance. Ask again.")
		return
	}
	text, err := p.change(r.Context(), c, q.action, q.ids, q.filter, q.what)
	if err != nil {
		text = "It has ended before all were changed: " + err.Error() + ". " + text
	}
	p.done(w, r, q.back, text)
}

// values are the fields of the form, as in an address.
func (f jobsForm) values() map[string][]string {
	values := map[string][]string{}
	for _, field := range f.Hidden {
		values[field[0]] = append(values[field[0]], field[1])
	}
	return values
}

// capital begins a text with a capital letter.
func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }
