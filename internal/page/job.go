package page

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// jobView is a job with everything that is known about it.
type jobView struct {
	jobRow
	Detail   pgsource.JobDetail
	Settings []setting
	Headers  []setting
	Payload  string
	History  []event
	Actions  []jobAction
	MayAct   bool
	ReadOnly bool
}

// setting is a line of a table; Time stands in place of Value if it is set.
type setting struct {
	Name, Value string
	Time        *time.Time
}

type event struct {
	At   time.Time
	What string
}

// jobAction is a button.
type jobAction struct {
	Name, Label string
	Time        bool // it takes a time
}

var allActions = []struct {
	jobAction
	of pgsource.JobAction
}{
	{jobAction{"fire", "Fire now", false}, pgsource.FireJobs()},
	{jobAction{"retry", "Retry", false}, pgsource.RetryJobs(nil)},
	{jobAction{"purge", "Purge", false}, pgsource.PurgeJobs()},
	{jobAction{"reschedule", "Reschedule", true}, pgsource.RescheduleJobs(0)},
	{jobAction{"cancel", "Cancel", false}, pgsource.CancelJobs()},
}

// showJob answers with the page of a job. Where an id was given twice, it has several.
func (p *Page) showJob(w http.ResponseWriter, r *http.Request, c caller) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		p.say(w, r, c, http.StatusNotFound, "There is no such job", "The id of a job is a number.")
		return
	}
	var found []pgsource.JobDetail
	err = p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) (err error) {
		found, err = a.Show(r.Context(), id)
		return err
	})
	switch {
	case errors.Is(err, pgsource.ErrNoJob):
		p.say(w, r, c, http.StatusNotFound, "Job "+fmt.Sprint(id)+" is not here", capital(err.Error())+".")
		return
	case err != nil:
		p.sayError(w, r, c, err)
		return
	}
	var views []jobView
	for _, d := range found {
		v := jobViewOf(d)
		v.MayAct, v.ReadOnly = p.mayAct(c), p.cfg.ReadOnly
		views = append(views, v)
	}
	p.write(w, r, http.StatusOK, "job", view{Title: "Job " + fmt.Sprint(id), Caller: c, Body: views})
}

func jobViewOf(d pgsource.JobDetail) jobView {
	v := jobView{jobRow: jobRowOf(d.Job), Detail: d, Payload: payloadText(d)}
	add := func(name, value string) {
		if value != "" {
			v.Settings = append(v.Settings, setting{Name: name, Value: value})
		}
	}
	at := func(name string, t *driver.DBTime) {
		if t != nil {
			when := t.Time()
			v.Settings = append(v.Settings, setting{Name: name, Time: &when})
		}
	}
	fires := d.FireTime()
	v.Settings = append(v.Settings, setting{Name: "Due", Time: &fires})
	add("Key", d.Key)
	add("Reason", d.Reason)
	if d.Code > 0 {
		add("Reason code", codeText(d.Code))
	}
	if d.Attempts > 0 {
		add("Refused", fmt.Sprintf("%d times", d.Attempts))
	}
	at("Tried again", d.RetryAt)
	at("Ended", d.FailedAt)
	at("Expires", d.ExpiresAt)
	at("Published", d.ProcessedAt)
	add("Schedule", d.ScheduleName)
	at("Occurrence", d.OccurrenceAt)
	add("Ordering key", d.OrderingKey)
	if b := d.WaitsFor; b != nil {
		add("Waits for", fmt.Sprintf("job %d, which is %s", b.ID, b.State))
	}
	if f := d.Flight; f != nil {
		owner := f.Instance
		if owner == "" {
			owner = "nobody at the moment"
		}
		add("On its way", fmt.Sprintf("over lane %d of %s, QoS %d", f.Lane, owner, f.QoS))
	}
	if d.QoS != nil {
		add("QoS", fmt.Sprint(*d.QoS))
	} else {
		add("QoS", "that of the deployment")
	}
	if d.Retain {
		add("Retain", "yes")
	}
	add("Content type", d.ContentType)
	add("Response topic", d.ResponseTopic)
	add("Correlation data", hex.EncodeToString(d.Correlation))
	add("Shard", fmt.Sprint(d.Shard))
	add("Claim", d.Claim)
	add("Partition", d.PartitionedOff)
	for name, value := range d.Headers {
		v.Headers = append(v.Headers, setting{Name: name, Value: value})
	}
	slices.SortFunc(v.Headers, func(a, b setting) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range d.History {
		v.History = append(v.History, event{e.Time(), e.What})
	}
	for _, action := range allActions {
		if slices.Contains(action.of.Acts, d.State) {
			v.Actions = append(v.Actions, action.jobAction)
		}
	}
	return v
}

// codeText is an MQTT reason code.
func codeText(code int) string { return fmt.Sprintf("0x%02X", code) }

// payloadText is the beginning of a payload: as a text with its lines, or in hexadecimal digits.
func payloadText(d pgsource.JobDetail) string {
	text := ""
	if payload := strings.ToValidUTF8(string(d.Payload), "\uFFFD"); d.Binary && !utf8.Valid(d.Payload) {
		text = hex.Dump(d.Payload)
	} else {
		var lines []string
		for line := range strings.SplitSeq(payload, "\n") {
			lines = append(lines, cli.Visible(strings.TrimSuffix(line, "\r")))
		}
		text = strings.Join(lines, "\n")
	}
	if int64(len(d.Payload)) < d.PayloadSize {
		text += fmt.Sprintf("\n… (the first %d of %s bytes)", len(d.Payload), words.Thousands(d.PayloadSize))
	}
	return text
}

// actOnJob changes one job.
func (p *Page) actOnJob(w http.ResponseWriter, r *http.Request, c caller) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	var now driver.DBTime
	if err == nil {
		err = p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) (err error) {
			now, err = a.Now(r.Context())
			return err
		})
	}
	var action pgsource.JobAction
	if err == nil {
		action, err = actionOf(r.PostForm, now)
	}
	if err != nil {
		p.say(w, r, c, http.StatusBadRequest, "Nothing was changed", err.Error())
		return
	}
	text, err := p.change(r.Context(), c, action, []int64{id}, pgsource.JobFilter{}, r.PostForm.Get("at"))
	if err != nil {
		p.sayError(w, r, c, err)
		return
	}
	next := "/jobs/" + fmt.Sprint(id)
	if text == pgsource.CancelJobs().Done || text == pgsource.PurgeJobs().Done { // its row is gone
		next = "/jobs"
	}
	p.done(w, r, next, "Job "+fmt.Sprint(id)+": "+text+".")
}
