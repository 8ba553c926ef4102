package page

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// jobsForm is what was asked for.
type jobsForm struct {
	Key, Topic, From, Until string
	Schedule                string // its name
	States                  []choice
	Reason                  *pgsource.JobReason // the only reason; nil: any
	Hidden                  [][2]string         // all of it, for the form of an action
	Asked                   []asked
}

type choice struct {
	Name string
	On   bool
}

// asked is one of the things that were asked for, and the address of the list without it.
type asked struct{ Text, Without string }

// formFields are the fields that select jobs, with what is said of each.
var formFields = []struct{ name, text string }{
	{"key", "key "}, {"topic", "topic begins with "}, {"from", "due from "}, {"until", "due until "}, {"state", ""}, {"schedule", "schedule "}, {"code", ""}, {"reason", "reason: "},
}

// readJobsForm reads what is asked for, from an address or a form. It does not look for the schedule.
func readJobsForm(q url.Values, now driver.DBTime) (f jobsForm, filter pgsource.JobFilter, err error) {
	f = jobsForm{Key: q.Get("key"), Topic: q.Get("topic"), From: q.Get("from"), Until: q.Get("until"), Schedule: q.Get("schedule")}
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
	for _, field := range formFields {
		switch {
		case field.name == "state":
			for _, s := range filter.States {
				f.Hidden = append(f.Hidden, [2]string{field.name, string(s)})
			}
		case q.Get(field.name) != "" || field.name == "reason" && f.Reason != nil:
			f.Hidden = append(f.Hidden, [2]string{field.name, q.Get(field.name)})
		}
	}
	for i, field := range f.Hidden {
		if field[0] == "code" {
			continue // it goes with its reason
		}
		rest := url.Values{}
		for j, other := range f.Hidden {
			if i != j && (field[0] != "reason" || other[0] != "code") {
				rest.Add(other[0], other[1])
			}
		}
		text := field[1]
		for _, of := range formFields {
			if of.name == field[0] {
				text = of.text + text
			}
		}
		f.Asked = append(f.Asked, asked{text, jobsAddress(rest)})
	}
	return f, filter, err
}

// readJobsForm reads the form, and finds the schedule.
func (p *Page) readJobsForm(ctx context.Context, a *pgsource.JobsAdmin, q url.Values) (f jobsForm, filter pgsource.JobFilter, now driver.DBTime, err error) {
	if now, err = a.Now(ctx); err != nil {
		return f, filter, now, err
	}
	if f, filter, err = readJobsForm(q, now); err == nil && f.Schedule != "" {
		filter.Schedule, err = a.ScheduleID(ctx, f.Schedule)
	}
	return f, filter, now, err
}

// values are the fields of the form, as in an address.
func (f jobsForm) values() url.Values {
	values := url.Values{}
	for _, field := range f.Hidden {
		values.Add(field[0], field[1])
	}
	return values
}

// A trail is the places where the pages before have begun, so that one can go back through the same pages: the earlier ones first,
// without the first page, which begins nowhere.
const (
	trailSeparator = ","
	mostTrail      = 30 // then the first ones are forgotten
)

// older is the address of the page that begins at next, and newer that of the page before the one of the address.
func older(q url.Values, next string) string {
	q = copied(q)
	if after := q.Get("after"); after != "" {
		trail := append(strings.Split(q.Get("trail"), trailSeparator), after)
		trail = slices.DeleteFunc(trail, func(s string) bool { return s == "" })
		q.Set("trail", strings.Join(trail[max(0, len(trail)-mostTrail):], trailSeparator))
	}
	q.Set("after", next)
	return jobsAddress(q)
}

func newer(q url.Values) string {
	if q.Get("after") == "" {
		return ""
	}
	q = copied(q)
	trail := strings.Split(q.Get("trail"), trailSeparator)
	last := len(trail) - 1
	q.Set("after", trail[last])
	q.Set("trail", strings.Join(trail[:last], trailSeparator))
	return jobsAddress(copied(q))
}

// copied is a copy without what is empty, and without what belongs to one answer only.
func copied(q url.Values) url.Values {
	c := url.Values{}
	for name, values := range q {
		for _, value := range values {
			if name != "note" && (value != "" || name == "reason") {
				c.Add(name, value)
			}
		}
	}
	return c
}

// jobsAddress is the address of a list.
func jobsAddress(q url.Values) string {
	if len(q) == 0 {
		return "/jobs"
	}
	return "/jobs?" + q.Encode()
}
