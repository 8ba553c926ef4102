package page

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
)

// actedOn is how many jobs one action changes at most.
const actedOn = 10_000

// confirmation asks whether an action is meant.
type confirmation struct {
	Action, Question string
	Name             string // of the question
	Back             string // where to go if the answer is no
	Others           bool   // others may match by then
}

// errNoneTicked: a form for the jobs that are ticked has none.
var errNoneTicked = errors.New("no job is ticked: tick those that are meant, at the beginning of their lines")

// ticked are the ids of the jobs that are ticked in a form; nil: the form is for all that match.
func ticked(form map[string][]string) (ids []int64, err error) {
	if form["ticked"] == nil {
		return nil, nil
	}
	for _, text := range form["job"] {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is no id of a job", text)
		}
		ids = append(ids, id)
	}
	if ids == nil {
		return nil, errNoneTicked
	}
	return ids, nil
}

// actOnJobs changes the jobs that a form selects, one by one or by what they have in common: after it has been asked whether they
// are meant, and no others.
func (p *Page) actOnJobs(w http.ResponseWriter, r *http.Request, c caller) {
	if name := r.PostForm.Get("question"); name != "" {
		p.actAsAsked(w, r, c, name)
		return
	}
	asked := question{who: c.name}
	more := false
	var form jobsForm
	err := p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) error {
		read, filter, now, err := p.readJobsForm(r.Context(), a, r.PostForm)
		if err != nil {
			return err
		}
		if asked.action, err = actionOf(r.PostForm, now); err != nil {
			return err
		}
		if filter.IDs, err = ticked(r.PostForm); err != nil {
			return err
		}
		form, asked.filter = read, filter
		// Only those that it can change are asked about.
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
	asked.back, asked.what = jobsAddress(form.values()), form.values().Encode()
	if r.PostForm.Get("back") == "/failed" {
		asked.back = failedLink(form.Topic, false)
	}
	if len(asked.ids) == 0 {
		p.done(w, r, asked.back, "No job that matches can be changed by this: "+asked.action.Name+".")
		return
	}
	number := words.Jobs(int64(len(asked.ids)))
	switch {
	case more:
		number = "the first " + number + " that match"
	case len(asked.ids) == 1:
		number = fmt.Sprintf("job %d", asked.ids[0])
	}
	if r.PostForm.Get("action") == "reschedule" {
		number += " to " + strings.TrimSpace(r.PostForm.Get("at"))
	}
	text := capital(asked.action.Name) + " " + number + "?"
	if more {
		text += " There may be more."
	}
	confirm := confirmation{Action: asked.action.Name, Question: text, Back: asked.back, Others: asked.filter.IDs == nil, Name: p.questions.ask(asked)}
	if asked.back == "/jobs" && len(asked.ids) == 1 {
		confirm.Back = fmt.Sprintf("/jobs/%d", asked.ids[0])
	}
	p.write(w, r, http.StatusOK, "confirm", view{Title: text, Caller: c, Body: confirm})
}

// actAsAsked changes the jobs of a question to which the answer is yes.
func (p *Page) actAsAsked(w http.ResponseWriter, r *http.Request, c caller, name string) {
	q, ok := p.questions.answer(name, c.name)
	if !ok {
		p.say(w, r, c, http.StatusConflict, "Nothing was changed", "This question was answered already, or is older than "+words.Duration(questionLife)+", or was asked by another instance. Ask again.")
		return
	}
	text, err := p.change(r.Context(), c, q.action, q.ids, q.filter, q.what)
	if len(q.ids) == 1 {
		text = fmt.Sprintf("Job %d: %s.", q.ids[0], text)
	}
	if err != nil {
		text = "It has ended before all were changed: " + err.Error() + ". " + text
	}
	p.done(w, r, q.back, text)
}

// capital begins a text with a capital letter.
func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }
