package page

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/job-publisher/reactor/pgsource"
)

// failedStates are those of jobs that have ended without being published.
var failedStates = []pgsource.JobState{pgsource.JobFailed, pgsource.JobExpired, pgsource.JobMissed}

// failedView are the jobs that have ended without being published, by their reasons.
type failedView struct {
	Groups   []failedGroup
	More     bool // there are more than were read
	Problem  string
	MayAct   bool
	ReadOnly bool
}

// failedGroup are those with one state and one reason.
type failedGroup struct {
	State   pgsource.JobState
	Reason  string
	Jobs    int64
	Latest  time.Time // when the last of them ended
	Example jobRow
	Link    string
}

// showFailed groups the latest jobs that have ended without being published.
func (p *Page) showFailed(w http.ResponseWriter, r *http.Request, c caller) {
	v := failedView{MayAct: p.mayAct(c), ReadOnly: p.cfg.ReadOnly}
	err := p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) error {
		list, next, err := a.List(r.Context(), pgsource.JobFilter{States: failedStates}, pgsource.JobPage{Limit: actedOn, Latest: true})
		v.Groups, v.More = groupsOf(list), next != nil
		return err
	})
	if err != nil {
		v.Problem = err.Error()
	}
	p.write(w, r, http.StatusOK, "failed", view{Title: "Failed and missed", Caller: c, Body: v})
}

// groupsOf groups jobs by state and reason, the largest group first.
func groupsOf(list []pgsource.Job) (groups []failedGroup) {
	type key struct {
		state  pgsource.JobState
		reason string
	}
	place := map[key]int{}
	for _, j := range list {
		k := key{j.State, j.Reason}
		at, ok := place[k]
		if !ok {
			at = len(groups)
			place[k] = at
			groups = append(groups, failedGroup{State: j.State, Reason: j.Reason, Example: jobRowOf(j), Link: "/jobs?" + url.Values{"state": {string(j.State)}, "latest": {"on"}}.Encode()})
		}
		groups[at].Jobs++
		if j.FailedAt != nil && j.FailedAt.Time().After(groups[at].Latest) {
			groups[at].Latest = j.FailedAt.Time()
		}
	}
	slices.SortStableFunc(groups, func(a, b failedGroup) int { return cmp.Compare(b.Jobs, a.Jobs) })
	return groups
}
