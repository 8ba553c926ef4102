package page

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
)

// failedView are the jobs that have ended without being published, or cannot be claimed: by their reasons, or by their topics.
type failedView struct {
	Topic    string // only those whose topics begin with it; "": all
	ByTopic  bool
	Ways     []link
	Groups   []failedGroup
	Topics   []failedTopic
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
	Link         string      // to the list of them
	Ended        bool        // they can be retried and purged
	Hidden       [][2]string // what selects them
}

// failedTopic are those whose topics have the same beginning.
type failedTopic struct {
	pgsource.FailedTopic
	Count        string
	Since, Until time.Time
	Link         string // to their reasons, or to the next level of their topics
	List         string // to the list of them
}

func failedLink(topic string, byTopic bool) string {
	q := url.Values{}
	if topic != "" {
		q.Set("topic", topic)
	}
	if byTopic {
		q.Set("by", "topic")
	}
	if len(q) == 0 {
		return "/failed"
	}
	return "/failed?" + q.Encode()
}

// showFailed groups the jobs that have ended without being published.
func (p *Page) showFailed(w http.ResponseWriter, r *http.Request, c caller) {
	topic, byTopic := r.URL.Query().Get("topic"), r.URL.Query().Get("by") == "topic"
	v := failedView{MayAct: p.mayAct(c), ReadOnly: p.cfg.ReadOnly, Topic: topic, ByTopic: byTopic, Ways: []link{
		{failedLink(topic, false), "By reason", !byTopic}, {failedLink(topic, true), "By topic", byTopic},
	}}
	err := p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) error {
		if byTopic {
			list, more, err := a.FailedTopics(r.Context(), topic)
			for _, t := range list {
				v.Topics = append(v.Topics, failedTopicOf(t))
			}
			v.More = more
			return err
		}
		list, more, err := a.FailedGroups(r.Context(), topic)
		for _, g := range list {
			v.Groups = append(v.Groups, failedGroupOf(g, topic))
		}
		v.More = more
		return err
	})
	if err != nil {
		v.Problem = err.Error()
	}
	p.write(w, r, http.StatusOK, "failed", view{Title: "Failed and missed", Caller: c, Refresh: true, Body: v})
}

func failedGroupOf(g pgsource.FailedGroup, topic string) failedGroup {
	v := failedGroup{FailedGroup: g, Count: words.Thousands(g.Jobs), Since: g.First.Time(), Until: g.Last.Time(), Ended: g.State.Final()}
	add := func(name, value string) { v.Hidden = append(v.Hidden, [2]string{name, value}) }
	add("state", string(g.State))
	add("code", strconv.Itoa(g.Code))
	add("reason", g.Reason)
	if topic != "" {
		add("topic", topic)
	}
	v.Link = "/jobs?" + jobsForm{Hidden: v.Hidden}.values().Encode()
	if g.Code > 0 {
		v.CodeText = codeText(g.Code)
	}
	return v
}

func failedTopicOf(t pgsource.FailedTopic) failedTopic {
	list := url.Values{"topic": {t.Topic}, "state": {"blocked", "failed", "expired", "missed"}}
	return failedTopic{t, words.Thousands(t.Jobs), t.First.Time(), t.Last.Time(), failedLink(t.Topic, !t.Whole), "/jobs?" + list.Encode()}
}
