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

// subscribe starts the subscriber. At QoS 2 it records each message once, also when its connection
// breaks. But not if the broker is killed: a broker that starts from an old save uses packet ids
// again that the subscriber still knows, and the subscriber would drop new messages as repetitions.
// So with brokerkill it uses QoS 1, where a message with DUP is a repetition by the broker. Then it
// also makes the broker save, so that the first save contains the subscription.
func (d *deployment) subscribe(ctx context.Context) (*check.Subscriber, error) {
	cfg := check.SubscriberConfig{URL: d.broker.URL(), Filter: "chaos/#", QoS: 2}
	if d.trace != nil {
		cfg.QoS = 1
	}
	subscriber, err := check.Subscribe(ctx, cfg)
	if err == nil && d.trace != nil {
		err = d.saveBroker(ctx)
	}
	return subscriber, err
}

// verify compares the table with the received messages and adds the findings to o.
func (d *deployment) verify(ctx context.Context, conn *pgx.Conn, subscriber *check.Subscriber, o *Outcome) error {
	// The marker is sent last, so it arrives after all other messages.
	marked := time.Now()
	if err := check.Mark(ctx, d.broker.URL(), markerTopic, markerID); err != nil {
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
	o.checkRefused(failures)
	expected = d.checkFailures(o, expected, received, failures)
	expected = append(expected, check.Expected{ID: markerID, Topic: markerTopic, FireAt: marked})

	if err := d.checkOrder(ctx, conn, o, received); err != nil {
		return err
	}
	received = d.acceptRepetitions(o, expected, received)
	o.Report = check.Compare(expected, received, check.Config{})
	d.acceptLosses(o)
	r := o.Report
	switch d.cfg.Delivery {
	case reactor.AtLeastOnce:
		r.Duplicated = check.Findings{}
	case reactor.AtMostOnce:
		r.Lost = check.Findings{}
	}
	if err := r.Err(); err != nil {
		o.addFinding("%v%s", err, describeJobs(ctx, conn, slices.Concat(r.Lost.IDs, r.Duplicated.IDs, r.Early.IDs)))
	}
	d.checkLateness(o, expected, received)
	if n := subscriber.Progress().SessionsLost; n > 0 {
		o.addFinding("the broker lost the subscriber's session %d times: the run proves nothing", n)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cfg.has("lockjob") {
		o.addNote("%d rows were locked while their jobs were claimed", d.rowsLocked)
	}
	if d.failovers > 0 {
		o.addNote("%d failovers", d.failovers)
	}
	return nil
}

// checkOrder checks that the jobs of each ordering key have arrived in order: by the first copy of each,
// as a repetition comes later. Nothing promises this where the database or the broker has lost what
// they had confirmed, nor at QoS 0.
func (d *deployment) checkOrder(ctx context.Context, conn *pgx.Conn, o *Outcome, received []check.Received) error {
	if d.cfg.Delivery == reactor.AtMostOnce || d.cfg.has("failover") || d.cfg.has("brokerkill") {
		return nil
	}
	rows, err := conn.Query(ctx, "SELECT id, ordering_key FROM jobs WHERE ordering_key IS NOT NULL ORDER BY fire_at, id")
	if err != nil {
		return err
	}
	keys, place := map[int64]string{}, map[int64]int{}
	var (
		id  int64
		key string
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &key}, func() error {
		keys[id], place[id] = key, len(place)
		return nil
	}); err != nil {
		return err
	}
	last, seen := map[string]int64{}, map[int64]bool{}
	wrong := 0
	for _, m := range received {
		key, ordered := keys[m.ID]
		if !ordered || seen[m.ID] {
			continue
		}
		seen[m.ID] = true
		if before, any := last[key]; any && place[before] > place[m.ID] {
			if wrong++; wrong <= 5 {
				o.addNote("key %s: job %d arrived after job %d", key, m.ID, before)
			}
			continue
		}
		last[key] = m.ID
	}
	if wrong > 0 {
		o.addFinding("%d jobs of %d arrived out of the order of their keys", wrong, len(seen))
	} else {
		o.addNote("%d jobs of %d keys arrived in order", len(seen), len(last))
	}
	return nil
}

// describeJobs returns the rows of the first jobs, a line for each.
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

func (o *Outcome) addFinding(format string, args ...any) {
	o.Findings = append(o.Findings, fmt.Sprintf(format, args...))
}

func (o *Outcome) addNote(format string, args ...any) {
	o.Notes = append(o.Notes, fmt.Sprintf(format, args...))
}

// failure is a row of failed_jobs, or a job with a refused topic that has no such row.
type failure struct {
	id     int64
	topic  string
	fireAt time.Time
	code   *int16
	reason *string
}

// readFailures reads the jobs that have failed, and those that must have failed.
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

// checkRefused checks that jobs that the broker refuses have ended as failed, with the broker's
// code. (The broker itself makes sure that their messages do not arrive.)
func (o *Outcome) checkRefused(failures []failure) {
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
		o.addFinding("%d of %d jobs that the broker refused are not recorded as failed with its reason", wrong, refused)
	} else if refused > 0 {
		o.addNote("%d jobs were refused and recorded as failed with the broker's reason", refused)
	}
}

// checkFailures removes from expected the jobs that were allowed to fail and have failed. With
// at-least-once and exactly-once no other job may fail, and a failed job must not have arrived.
func (d *deployment) checkFailures(o *Outcome, expected []check.Expected, received []check.Received, failures []failure) []check.Expected {
	if d.cfg.Delivery == reactor.AtMostOnce {
		return expected // with at-most-once a job fails if it is unknown whether it was delivered
	}
	allowed := map[int64]bool{}
	var unexpected []failure
	for _, f := range failures {
		switch {
		case strings.HasPrefix(f.topic, refusedTopics):
		case f.reason != nil && *f.reason != "" && d.mayFail(f.topic, f.fireAt):
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
		o.addFinding("%d jobs failed, job %d (%s) with %q", n, unexpected[0].id, unexpected[0].topic, reason)
	}
	if len(allowed) == 0 {
		return expected
	}
	o.addNote("%d jobs whose rows could not be changed are recorded as failed", len(allowed))
	for _, m := range received {
		if allowed[m.ID] {
			o.addFinding("job %d is recorded as failed, and was published", m.ID)
			delete(allowed, m.ID)
		}
	}
	return slices.DeleteFunc(expected, func(e check.Expected) bool { return allowed[e.ID] })
}

// acceptRepetitions removes from received the messages that the faults explain. Where commits were
// lost, these are the first copy of a job whose claim was lost, and messages of rows that were lost.
// Where the broker was killed, these are repetitions of messages that it had not completed. Early
// messages are never removed.
func (d *deployment) acceptRepetitions(o *Outcome, expected []check.Expected, received []check.Received) []check.Received {
	d.mu.Lock()
	spans := slices.Clone(d.losses)
	d.mu.Unlock()
	lostCommits := len(spans) > 0
	if d.trace != nil {
		spans = append(spans, d.trace.repetitionTimes()...)
	}
	if len(spans) == 0 && d.trace == nil {
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
			orphans++ // its row was lost, and the id may belong to another row now
			copies[m.ID]--
		case ours && !m.At.Before(e.FireAt) && copies[m.ID] > 1 && (unsure || d.trace != nil && m.Dup):
			repeated++
			copies[m.ID]--
		default:
			kept = append(kept, m)
		}
	}
	if repeated+orphans > 0 {
		o.addNote("%d repetitions accepted, and %d messages of rows that were lost with a commit", repeated, orphans)
	}
	return kept
}

// acceptLosses removes from the lost jobs those that the broker has lost: it had the message, was
// told to deliver it, and was killed, maybe together with the sender (docs/delivery.md). All other
// lost jobs are findings.
func (d *deployment) acceptLosses(o *Outcome) {
	if d.trace == nil {
		return
	}
	lost := o.Report.Lost
	o.Report.Lost = check.Findings{}
	states := map[releaseState]int{}
	for _, id := range lost.IDs {
		f := d.trace.releaseStateOf(id)
		states[f]++
		if !f.acceptable() {
			o.addNote("job %d: %s", id, d.trace.history(id))
			o.Report.Lost.IDs = append(o.Report.Lost.IDs, id)
			o.Report.Lost.Count++
		}
	}
	kills := d.trace.kills()
	o.addNote("the broker was killed %d times", kills)
	for f, n := range states {
		line := fmt.Sprintf("%d jobs lost: %s", n, f)
		if f.acceptable() || d.cfg.Delivery == reactor.AtMostOnce {
			o.addNote("%s", line)
		} else {
			o.addFinding("%s", line)
		}
	}
	// The number of messages that a lane has in flight is limited, so a kill can only lose that many.
	const window = 384
	lostWithBroker := states[releasedAtKill] + states[releasedBySuccessor]
	if most := kills * d.cfg.Instances * lanes * window; lostWithBroker > most {
		o.addFinding("%d jobs were lost with the broker, but at %d kills at most %d can have been in flight", lostWithBroker, kills, most)
	}
}

// latenessLimit is how late a job may be if all faults of the run are harmless to it: other rows
// were locked or blocked. On an idle machine half of it would be enough.
const latenessLimit = 5 * time.Second

// checkLateness checks that no job without a fault is later than latenessLimit. It does so only if
// all faults in use are harmless.
func (d *deployment) checkLateness(o *Outcome, expected []check.Expected, received []check.Received) {
	for _, f := range faults {
		if !f.harmless && d.cfg.has(f.name) {
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
		if !arrived || d.wasBlocked(e.Topic) {
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
		o.addFinding("%d jobs without a fault were more than %v late, job %d by %v", late, latenessLimit, which, worst.Round(time.Millisecond))
	} else {
		o.addNote("the latest job without a fault was %v late", worst.Round(time.Millisecond))
	}
}
