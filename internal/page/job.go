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

	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// jobView is a job with everything that is known about it.
type jobView struct {
	jobRow
	Detail       pgsource.JobDetail
	Settings     []setting
	Headers      []setting
	Payload      payloadView
	History      []event
	ScheduleLink string
	When         string // how long until it is due, or since it was
	Actions      []jobAction
	MayAct       bool
	ReadOnly     bool
}

// setting is a line of a table; Time stands in place of Value if it is set.
type setting struct {
	Name, Value string
	Time        *time.Time
}

// event is one of a job's history. Since is how long after its time it was.
type event struct {
	At          time.Time
	Since, What string
}

// jobAction is a button.
type jobAction struct {
	Name, Label string
	Time        bool // it takes a time
	Asks        bool // it cannot be undone, and is asked about first
}

var allActions = []struct {
	jobAction
	of pgsource.JobAction
}{
	{jobAction{Name: "fire", Label: "Fire now"}, pgsource.FireJobs()},
	{jobAction{Name: "retry", Label: "Retry"}, pgsource.RetryJobs(nil)},
	{jobAction{Name: "purge", Label: "Purge", Asks: true}, pgsource.PurgeJobs()},
	{jobAction{Name: "reschedule", Label: "Reschedule", Time: true}, pgsource.RescheduleJobs(0)},
	{jobAction{Name: "cancel", Label: "Cancel", Asks: true}, pgsource.CancelJobs()},
}

// showJob answers with the page of a job. Where an id was given twice, it has several.
func (p *Page) showJob(w http.ResponseWriter, r *http.Request, c caller) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		p.say(w, r, c, http.StatusNotFound, "There is no such job", "The id of a job is a number.")
		return
	}
	var found []pgsource.JobDetail
	var now driver.DBTime
	err = p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) (err error) {
		if found, err = a.Show(r.Context(), id); err != nil {
			return err
		}
		if d := &found[0]; len(found) == 1 && d.PayloadSize > int64(len(d.Payload)) && d.PayloadSize <= mostPayload {
			if d.Payload, err = a.Payload(r.Context(), id); err != nil {
				return err
			}
		}
		now, err = a.Now(r.Context())
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
		if until := d.FireTime().Sub(now.Time()); until > 0 {
			v.When = "due in " + words.Duration(until)
		} else if !d.State.Final() {
			v.When = "due for " + words.Duration(-until)
		}
		v.MayAct, v.ReadOnly = p.mayAct(c), p.cfg.ReadOnly
		views = append(views, v)
	}
	p.write(w, r, http.StatusOK, "job", view{Title: "Job " + fmt.Sprint(id), Caller: c, Refresh: true, Body: views})
}

func jobViewOf(d pgsource.JobDetail) jobView {
	v := jobView{jobRow: jobRowOf(d.Job), Detail: d, Payload: payloadViewOf(d.Payload, d.PayloadSize)}
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
	add("Claimed", lateClaim(d))
	add("Key", d.Key)
	add("Reason", d.Reason)
	if d.Code > 0 {
		add("Reason code", codeText(d.Code))
	}
	if unsent := d.State == pgsource.JobExpired || d.State == pgsource.JobMissed; d.Attempts > 1 {
		add("Attempts", fmt.Sprint(d.Attempts))
	} else if d.Attempts == 1 && !unsent { // whose end is counted as one
		add("Attempts", "1")
	}
	at("Tried again", d.RetryAt)
	at("Ended", d.FailedAt)
	at("Expires", d.ExpiresAt)
	if d.State == pgsource.JobFired { // otherwise it is the time of a claim
		at("Published", d.ProcessedAt)
	}
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
	if d.ScheduleName != "" {
		v.ScheduleLink = scheduleLink(d.ScheduleName)
	}
	for name, value := range d.Headers {
		v.Headers = append(v.Headers, setting{Name: name, Value: value})
	}
	slices.SortFunc(v.Headers, func(a, b setting) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range d.History {
		v.History = append(v.History, event{e.Time(), sinceDue(e.Time().Sub(fires)), e.What})
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

// sinceDue is how long after its time something happened to a job; "": it is the time itself.
func sinceDue(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d < 0:
		return "−" + brief(-d)
	}
	return "+" + brief(d)
}

// brief is a time in words, or in milliseconds if it is short.
func brief(d time.Duration) string {
	if d < 10*time.Second {
		return ms(d) + " ms"
	}
	return words.Duration(d)
}

// lateClaim says how late a job was claimed. Its processed_at is the time of the claim, or of fire_at if that is later.
func lateClaim(d pgsource.JobDetail) string {
	if d.ProcessedAt == nil || d.Claim == "" {
		return ""
	}
	if late := d.ProcessedAt.Sub(d.FireAt); late > 0 {
		return brief(late) + " after its time"
	}
	return "before its time, to be published on time"
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
