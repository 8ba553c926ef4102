package page

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
)

// failedView are the jobs that have ended without being published, or cannot be claimed, by their reasons.
type failedView struct {
	Groups   []failedGroup
	More     bool // there are more than were read
	Problem  string
	MayAct   bool
	ReadOnly bool
}

// failedGroup are those with one state and one reason.
type failedGroup struct {
	pgsource.FailedGroup
	Count        string
	CodeText     string // "": the broker has not refused them
	Since, Until time.Time
	Link         string // to the list of them
	Ended        bool   // they can be retried and purged
}

// showFailed groups the jobs that have ended without being published.
func (p *Page) showFailed(w http.ResponseWriter, r *http.Request, c caller) {
	v := failedView{MayAct: p.mayAct(c), ReadOnly: p.cfg.ReadOnly}
	err := p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) error {
		list, more, err := a.FailedGroups(r.Context(), "")
		for _, g := range list {
			v.Groups = append(v.Groups, failedGroupOf(g))
		}
		v.More = more
		return err
	})
	if err != nil {
		v.Problem = err.Error()
	}
	p.write(w, r, http.StatusOK, "failed", view{Title: "Failed and missed", Caller: c, Body: v})
}

func failedGroupOf(g pgsource.FailedGroup) failedGroup {
	v := failedGroup{
		FailedGroup: g, Count: words.Thousands(g.Jobs), Since: g.First.Time(), Until: g.Last.Time(), Ended: g.State.Final(),
		Link: "/jobs?" + url.Values{"state": {string(g.State)}, "code": {strconv.Itoa(g.Code)}, "reason": {g.Reason}}.Encode(),
	}
	if g.Code > 0 {
		v.CodeText = codeText(g.Code)
	}
	return v
}
