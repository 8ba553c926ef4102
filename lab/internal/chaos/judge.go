package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/reactor"
)

// subscribe starts the judge's own subscriber. At QoS 2 it counts each message once, also
// when its connection breaks. Where the broker is killed that turns against it: a broker
// that is thrown back uses packet ids again that the subscriber has not forgotten, and it
// would drop new messages as known. There QoS 1 is right, and what comes with DUP is the
// broker's repetition. The broker's first save holds the subscription.
func (w *world) subscribe(ctx context.Context) (*check.Subscriber, error) {
	cfg := check.SubscriberConfig{URL: w.broker.URL(), Filter: "chaos/#", QoS: 2}
	if w.ledger != nil {
		cfg.QoS = 1
	}
	subscriber, err := check.Subscribe(ctx, cfg)
	if err == nil && w.ledger != nil {
		err = w.saveBroker(ctx)
	}
	return subscriber, err
}

// judge compares the table with what has arrived.
func (w *world) judge(ctx context.Context, conn *pgx.Conn, subscriber *check.Subscriber, o *Outcome) error {
	// What is sent last arrives last: when the marker is there, so is everything else.
	marked := time.Now()
	if err := check.Mark(ctx, w.broker.URL(), markerTopic, markerID); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	if err := subscriber.WaitFor(waiting, markerID); err != nil {
		return err
	}
	expected, err := check.ExpectedFromDB(ctx, conn, "topic NOT LIKE '"+refusedTopics+"%'")
	if err != nil {
		return err
	}
	received := subscriber.Received()
	failures, err := readFailures(ctx, conn)
	if err != nil {
		return err
	}
	o.judgeRefused(failures)
	expected = w.judgeFailures(o, expected, received, failures)
	expected = append(expected, check.Expected{ID: markerID, Topic: markerTopic, FireAt: marked})

	received = w.forgive(o, expected, received)
	o.Report = check.Compare(expected, received, check.Config{})
	w.forgiveLost(o)
	r := o.Report
	switch w.cfg.Delivery {
	case reactor.AtLeastOnce:
		r.Duplicated = check.Findings{}
	case reactor.AtMostOnce:
		r.Lost = check.Findings{}
	}
	if err := r.Err(); err != nil {
		o.find("%v%s", err, describeJobs(ctx, conn, slices.Concat(r.Lost.IDs, r.Duplicated.IDs, r.Early.IDs)))
	}
	w.judgeLateness(o, expected, received)
	if n := subscriber.Progress().SessionsLost; n > 0 {
		o.find("the broker lost the judge's session %d times: nothing is proved", n)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cfg.has("lockjob") {
		o.note("%d rows locked while their jobs were on their way", w.rowsLocked)
	}
	if w.failovers > 0 {
		o.note("%d failovers", w.failovers)
	}
	return nil
}

// describeJobs says what the table knows of some jobs, a line for each of the first.
func describeJobs(ctx context.Context, conn *pgx.Conn, ids []int64) string {
	rows, err := conn.Query(ctx, `
		SELECT row_to_json(x)::text FROM (
		    SELECT id, topic, shard, fire_at, processed, processed_at, claim, xmin,
		           (SELECT reason FROM reactor.failed_jobs WHERE job_id = id) AS failed
		      FROM jobs WHERE id = ANY ($1) ORDER BY processed_at, id LIMIT 12) AS x`, ids)
	if err != nil {
		return fmt.Sprintf("\n    %v", err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Sprintf("\n    %v", err)
	}
	return "\n    " + strings.Join(lines, "\n    ")
}

func (o *Outcome) find(format string, args ...any) {
	o.Findings = append(o.Findings, fmt.Sprintf(format, args...))
}

func (o *Outcome) note(format string, args ...any) {
	o.Notes = append(o.Notes, fmt.Sprintf(format, args...))
}

// failure is a row of failed_jobs, or a refused job that has none.
type failure struct {
	id     int64
	topic  string
	fireAt time.Time
	code   *int16
	reason *string
}

// readFailures reads what has failed, and what must have.
func readFailures(ctx context.Context, conn *pgx.Conn) ([]failure, error) {
	rows, err := conn.Query(ctx, `
		SELECT coalesce(j.id, f.job_id), coalesce(j.topic, ''), coalesce(j.fire_at, 'epoch'), f.code, f.reason
		  FROM jobs j FULL JOIN reactor.failed_jobs f ON f.job_id = j.id
		 WHERE f.job_id IS NOT NULL OR j.topic LIKE '`+refusedTopics+`%'`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (f failure, err error) {
		return f, row.Scan(&f.id, &f.topic, &f.fireAt, &f.code, &f.reason)
	})
}

// judgeRefused: what the broker refuses must end as failed, with the broker's code. That
// none of it arrived is the broker's doing.
func (o *Outcome) judgeRefused(failures []failure) {
	const notAuthorized = 0x87
	refused, wrong := 0, 0
	for _, f := range failures {
		if !strings.HasPrefix(f.topic, refusedTopics) {
			continue
		}
		if refused++; f.code == nil || *f.code != notAuthorized || f.reason == nil || *f.reason == "" {
			wrong++
		}
	}
	if wrong > 0 {
		o.find("%d of %d jobs that the broker refused are not recorded as failed with its reason", wrong, refused)
	} else if refused > 0 {
		o.note("%d jobs were refused, and failed with the broker's reason", refused)
	}
}

// judgeFailures takes from expected the jobs that may have failed, and did. No other may,
// at at-least-once and exactly-once; and none of these may have arrived.
func (w *world) judgeFailures(o *Outcome, expected []check.Expected, received []check.Received, failures []failure) []check.Expected {
	if w.cfg.Delivery == reactor.AtMostOnce {
		return expected // failing is how a doubt ends there
	}
	allowed := map[int64]bool{}
	var unexpected []failure
	for _, f := range failures {
		switch {
		case strings.HasPrefix(f.topic, refusedTopics):
		case f.reason != nil && *f.reason != "" && w.mayFail(f.topic, f.fireAt):
			allowed[f.id] = true
		default:
			unexpected = append(unexpected, f)
		}
	}
	if n := len(unexpected); n > 0 {
		reason := ""
		if unexpected[0].reason != nil {
			reason = *unexpected[0].reason
		}
		o.find("%d jobs failed, job %d (%s) with %q", n, unexpected[0].id, unexpected[0].topic, reason)
	}
	if len(allowed) == 0 {
		return expected
	}
	o.note("%d jobs of rows that could not be changed are recorded as failed", len(allowed))
	for _, m := range received {
		if allowed[m.ID] {
			o.find("job %d is recorded as failed, and was published", m.ID)
			delete(allowed, m.ID)
		}
	}
	return slices.DeleteFunc(expected, func(e check.Expected) bool { return allowed[e.ID] })
}

// forgive takes from received what the faults excuse: while commits were lost, a first copy
// of a job that was undone, and messages of rows that were; where the broker was killed,
// repetitions of what it had in hand. What came early stays.
func (w *world) forgive(o *Outcome, expected []check.Expected, received []check.Received) []check.Received {
	w.mu.Lock()
	spans := slices.Clone(w.losses)
	w.mu.Unlock()
	lostCommits := len(spans) > 0
	if w.ledger != nil {
		spans = append(spans, w.ledger.unsure()...)
	}
	if len(spans) == 0 && w.ledger == nil {
		return received
	}
	jobs := make(map[int64]*check.Expected, len(expected))
	for i := range expected {
		jobs[expected[i].ID] = &expected[i]
	}
	copies := make(map[int64]int, len(received))
	for _, m := range received {
		copies[m.ID]++
	}
	repeated, orphans := 0, 0
	kept := make([]check.Received, 0, len(received))
	for _, m := range received {
		e, unsure := jobs[m.ID], within(spans, m.At)
		ours := e != nil && e.Topic == m.Topic && string(e.Payload) == string(m.Payload)
		switch {
		case !ours && lostCommits && unsure:
			orphans++ // its row is gone, and its id perhaps somebody else's
			copies[m.ID]--
		case ours && !m.At.Before(e.FireAt) && copies[m.ID] > 1 && (unsure || w.ledger != nil && m.Dup):
			repeated++
			copies[m.ID]--
		default:
			kept = append(kept, m)
		}
	}
	if repeated+orphans > 0 {
		o.note("%d repetitions accepted, and %d messages of rows that were lost", repeated, orphans)
	}
	return kept
}

// forgiveLost takes from the lost jobs those that the broker has lost: it was told to pass
// them on, had them, and was killed, maybe together with who sent them (docs/delivery.md). What
// else is lost is told apart.
func (w *world) forgiveLost(o *Outcome) {
	if w.ledger == nil {
		return
	}
	lost := o.Report.Lost
	o.Report.Lost = check.Findings{}
	fates := map[fate]int{}
	for _, id := range lost.IDs {
		f := w.ledger.fateOf(id)
		fates[f]++
		if !f.excused() {
			o.note("job %d: %s", id, w.ledger.history(id))
			o.Report.Lost.IDs = append(o.Report.Lost.IDs, id)
			o.Report.Lost.Count++
		}
	}
	kills := w.ledger.kills()
	o.note("the broker was killed %d times", kills)
	for f, n := range fates {
		line := fmt.Sprintf("%d jobs lost: %s", n, f)
		if f.excused() || w.cfg.Delivery == reactor.AtMostOnce {
			o.note("%s", line)
		} else {
			o.find("%s", line)
		}
	}
	// What a lane has on its way is bounded, and so is what goes with a broker.
	const lanes, window = 2, 384
	gone := fates[releasedAtTheKill] + fates[releasedByAnHeir]
	if most := kills * w.cfg.Instances * lanes * window; gone > most {
		o.find("%d jobs were lost with the broker: at %d kills at most %d can have been on their way", gone, kills, most)
	}
}

// latenessLimit is how late a job may be if nothing happened but what it has nothing to do
// with: rows that others have locked or spoiled. Half of it would do on an idle machine.
const latenessLimit = 5 * time.Second

// judgeLateness holds healthy jobs to the limit, if every fault in use is harmless to them.
func (w *world) judgeLateness(o *Outcome, expected []check.Expected, received []check.Received) {
	for _, f := range faults {
		if !f.harmless && w.cfg.has(f.name) {
			return
		}
	}
	first := make(map[int64]time.Time, len(received))
	for _, m := range received {
		if at, seen := first[m.ID]; !seen || m.At.Before(at) {
			first[m.ID] = m.At
		}
	}
	late, worst, which := 0, time.Duration(0), int64(0)
	for _, e := range expected {
		at, arrived := first[e.ID]
		if !arrived || w.isPoisoned(e.Topic) {
			continue
		}
		by := at.Sub(e.FireAt)
		if by > latenessLimit {
			late++
		}
		if by > worst {
			worst, which = by, e.ID
		}
	}
	if late > 0 {
		o.find("%d jobs that nothing was wrong with were more than %v late, job %d by %v", late, latenessLimit, which, worst.Round(time.Millisecond))
	} else {
		o.note("the latest job that nothing was wrong with was %v late", worst.Round(time.Millisecond))
	}
}
