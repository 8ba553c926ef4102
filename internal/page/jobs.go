package page

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
)

// listed is how many jobs a page of a list has.
const listed = 50

// jobsView is a list of jobs, and the form that selects them.
type jobsView struct {
	Form     jobsForm
	Places   []place
	Jobs     []jobRow
	ByID     bool   // the newest ids come first; otherwise the next to fire
	Next     string // the address of the next page; "": there is none
	Newer    string // that of the page before; "": this is the first
	First    string // that of the first
	Broken   bool   // the search was broken off, because it had read enough
	Problem  string
	MayAct   bool
	ReadOnly bool
}

// jobRow is a job in a list.
type jobRow struct {
	pgsource.Job
	Fires time.Time
	Level level
}

// place is a list that many look for, with how many jobs it has; Count "": that is not counted.
type place struct {
	Text, Count, Link string
	Here              bool
	Level             level
}

var jobLevels = map[pgsource.JobState]level{
	pgsource.JobFired: fine, pgsource.JobFiring: fine, pgsource.JobRetrying: warning, pgsource.JobReturning: warning,
	pgsource.JobBlocked: bad, pgsource.JobFailed: bad, pgsource.JobExpired: bad, pgsource.JobMissed: bad, pgsource.JobWaiting: unknown,
}

func jobRowOf(j pgsource.Job) jobRow { return jobRow{j, j.FireTime(), jobLevels[j.State]} }

// The lists to which numbers lead.
const (
	listWaiting  = "/jobs?state=waiting"
	listDue      = "/jobs?state=waiting&state=blocked&until=%2B0s"
	listMinute   = "/jobs?from=%2B0s&state=waiting&until=%2B1m"
	listHour     = "/jobs?from=%2B0s&state=waiting&until=%2B1h"
	listDay      = "/jobs?from=%2B0s&state=waiting&until=%2B24h"
	listFiring   = "/jobs?state=firing"
	listRetrying = "/jobs?state=retrying"
	listBlocked  = "/jobs?state=blocked"
	listEnded    = "/jobs?state=failed&state=expired&state=missed"
	listFired    = "/jobs?state=fired"
)

// placesOf are the lists that many look for; backlog nil: their numbers are not known.
func placesOf(backlog *pgsource.Backlog, form url.Values) []place {
	list := []place{
		{Text: "All", Link: "/jobs"},
		{Text: "Waiting", Link: listWaiting},
		{Text: "Due now", Link: listDue},
		{Text: "Next minute", Link: listMinute},
		{Text: "On their way", Link: listFiring},
		{Text: "Tried again", Link: listRetrying},
		{Text: "Blocked", Link: listBlocked},
		{Text: "Not published", Link: listEnded},
		{Text: "Fired", Link: listFired},
	}
	here := form.Encode()
	for i, p := range list {
		_, asks, _ := strings.Cut(p.Link, "?")
		list[i].Here = asks == here
	}
	if b := backlog; b != nil {
		for i, n := range []int64{2: b.Due, b.Soon, b.Firing, b.Retrying, b.Blocked, b.Failed} {
			if i >= 2 {
				list[i].Count = few(n)
			}
		}
		if b.Blocked > 0 {
			list[6].Level = warning
		}
		if b.Oldest > overdueAfter {
			list[2].Level = bad
		}
	}
	return list
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
	q.Del("id")
	v := jobsView{MayAct: p.mayAct(c), ReadOnly: p.cfg.ReadOnly, Newer: newer(q)}
	var backlog *pgsource.Backlog
	err := p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) error {
		form, filter, _, err := p.readJobsForm(r.Context(), a, q)
		if v.Form = form; err != nil {
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
			v.Next = older(q, found.Next.String())
		}
		if err != nil {
			return err
		}
		if b, err := a.Backlog(r.Context()); err == nil { // the list is of use without them
			backlog = &b
		}
		return nil
	})
	if err != nil {
		v.Problem = err.Error()
	}
	if v.Form.States == nil { // the database did not answer at all
		v.Form, _, _ = readJobsForm(q, 0)
	}
	v.First = jobsAddress(v.Form.values())
	v.Places = placesOf(backlog, v.Form.values())
	p.write(w, r, http.StatusOK, "jobs", view{Title: "Jobs", Caller: c, Refresh: true, Body: v})
}

// few is a number that is counted up to pgsource.MostCounted.
func few(n int64) string {
	if n > pgsource.MostCounted {
		return words.Thousands(pgsource.MostCounted) + "+"
	}
	return words.Thousands(n)
}
