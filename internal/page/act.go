package page

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// mayAct reports whether the caller may change something.
func (p *Page) mayAct(c caller) bool { return c.name != "" && !p.cfg.ReadOnly }

// actionTimeout is how long changes may take. The server's limits are for short answers.
const actionTimeout = 2 * time.Minute

// act lets those in who may change something, and reads the form that they have sent.
func (p *Page) act(do func(http.ResponseWriter, *http.Request, caller)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := p.identify(r)
		r.Body = http.MaxBytesReader(w, r.Body, mostForm)
		err := r.ParseForm()
		switch {
		case err != nil:
			p.say(w, r, c, http.StatusBadRequest, "This form cannot be read", "Go back, and try again.")
		case p.mayAct(c):
			until := time.Now().Add(actionTimeout)
			control := http.NewResponseController(w)
			_, _ = control.SetReadDeadline(until), control.SetWriteDeadline(until) // an error shows when the answer is written
			ctx, cancel := context.WithDeadline(r.Context(), until.Add(-time.Second))
			defer cancel()
			do(w, r.WithContext(ctx), c)
		case p.cfg.ReadOnly:
			p.say(w, r, c, http.StatusForbidden, "This page is read-only", "Nothing can be changed here (--http-page read-only). `reactor jobs` and `reactor schedules` change jobs and schedules.")
		case p.password != nil:
			http.Redirect(w, r, "/login?next="+url.QueryEscape(safeNext(r.PostForm.Get("next"))), http.StatusSeeOther)
		case c.local:
			p.say(w, r, c, http.StatusForbidden, "Changes need a login, and none is set up", "Start the instance with --http-password-file FILE (REACTOR_HTTP_PASSWORD_FILE), a file that has a password of your choice. `reactor jobs` and `reactor schedules` need none.")
		default:
			p.sayNoLogin(w, r, c)
		}
	}
}

// actionOf reads which action a form asks for.
func actionOf(form url.Values, now driver.DBTime) (pgsource.JobAction, error) {
	switch name := form.Get("action"); name {
	case "cancel":
		return pgsource.CancelJobs(), nil
	case "fire":
		return pgsource.FireJobs(), nil
	case "retry":
		return pgsource.RetryJobs(nil), nil
	case "purge":
		return pgsource.PurgeJobs(), nil
	case "reschedule":
		at, err := timeIn(form.Get("at"), now)
		if err != nil || at == nil {
			return pgsource.JobAction{}, fmt.Errorf("say when: a time such as 2030-01-31T08:00 in UTC, or a distance from now such as +1h30m")
		}
		return pgsource.RescheduleJobs(*at), nil
	default:
		return pgsource.JobAction{}, fmt.Errorf("there is no such action as %q", name)
	}
}

// timeIn reads a time of a form: RFC 3339, without a zone in UTC, or a distance from now; nil: none is given.
func timeIn(text string, now driver.DBTime) (*driver.DBTime, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	if text[0] == '+' || text[0] == '-' {
		d, err := time.ParseDuration(text)
		at := now.Add(d)
		return &at, err
	}
	var err error
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		var at time.Time
		if at, err = time.Parse(layout, text); err == nil {
			t := driver.DBTimeOf(at)
			return &t, nil
		}
	}
	return nil, fmt.Errorf("%q is no time: give one such as 2030-01-31T08:00 in UTC, or a distance from now such as +1h30m", text)
}

// mostAnswers is how many different ones are shown of those that jobs gave. Each may be an error with the words of its row.
const mostAnswers = 5

// change acts on jobs, and returns what became of them in a line. what is for the log: which jobs were meant, or the new time.
func (p *Page) change(ctx context.Context, c caller, action pgsource.JobAction, ids []int64, filter pgsource.JobFilter, what string) (string, error) {
	counts := map[string]int64{}
	done, others := int64(0), int64(0)
	err := p.cfg.Jobs.Change(ctx, func(a *pgsource.JobsAdmin) error {
		return a.Act(ctx, action, ids, filter, func(o pgsource.JobOutcome) error {
			if o.Done {
				done++
			}
			if counts[o.Answer] == 0 && len(counts) >= mostAnswers && !o.Done {
				others++
			} else {
				counts[o.Answer]++
			}
			return nil
		})
	})
	p.cfg.Logger.Info("jobs were changed on the page", "who", c.name, "from", c.from.String(), "action", action.Name, "what", what, "asked", len(ids), "done", done, "first_id", ids[0], "err", err)
	var parts []string
	for answer, n := range counts {
		if len(ids) == 1 {
			parts = append(parts, answer)
		} else {
			parts = append(parts, words.Thousands(n)+" "+answer)
		}
	}
	slices.Sort(parts)
	if others > 0 {
		parts = append(parts, words.Thousands(others)+" for other reasons")
	}
	return strings.Join(parts, ", "), err
}

// notes keep what became of an action until the page is shown to which the browser is sent then. They are known by a random
// name, so that no link can put words into the page.
type notes struct {
	mu sync.Mutex
	of map[string]string // guarded by mu
}

// mostNotes bounds the memory; beyond it all are forgotten.
const mostNotes = 100

func (n *notes) add(text string) (name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.of == nil || len(n.of) >= mostNotes {
		n.of = map[string]string{}
	}
	name = rand.Text()
	n.of[name] = text
	return name
}

func (n *notes) get(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.of[name]
}

// done sends the browser to a page that says what became of an action.
func (p *Page) done(w http.ResponseWriter, r *http.Request, next, text string) {
	u, err := url.Parse(safeNext(next))
	if err != nil {
		u = &url.URL{Path: "/"}
	}
	q := u.Query()
	q.Set("note", p.notes.add(text))
	u.RawQuery = q.Encode()
	http.Redirect(w, r, u.RequestURI(), http.StatusSeeOther)
}

// sayError answers with an error of the database.
func (p *Page) sayError(w http.ResponseWriter, r *http.Request, c caller, err error) {
	p.say(w, r, c, http.StatusServiceUnavailable, "The database did not do this", cli.Visible(cli.InFlagTerms(err.Error())))
}
