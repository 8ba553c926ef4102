package chaos

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/check"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// at returns a time of the run; seconds count from noon.
func at(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

func job(id int64, fireAt float64) check.Expected {
	return check.Expected{ID: id, Topic: fmt.Sprint("chaos/", id), Payload: []byte("p"), FireAt: at(fireAt)}
}

func message(id int64, arrived float64) check.Received {
	return check.Received{ID: id, Topic: fmt.Sprint("chaos/", id), Payload: []byte("p"), At: at(arrived)}
}

// TestAcceptRepetitions: a job whose claim a failover has lost may arrive twice. No other job may.
func TestAcceptRepetitions(t *testing.T) {
	d := &deployment{losses: []span{{at(10), at(14)}}}
	expected := []check.Expected{job(1, 11), job(2, 1), job(3, 11), job(4, 12), job(5, 13)}
	reused := message(5, 13)
	reused.Payload = []byte("of a row that was lost")
	received := []check.Received{
		message(1, 11), message(1, 16), // the claim was lost: accepted
		message(2, 1), message(2, 16), // claimed long before: a duplicate
		message(3, 10.5), message(3, 16), // early: never removed
		message(4, 12),                            // arrives once
		reused, message(5, 13.5), message(77, 13), // rows that were lost
		message(78, 20), // no row, and after the failover
	}
	var o Outcome
	r := check.Compare(expected, d.acceptRepetitions(&o, expected, received), check.Config{})
	for name, c := range map[string]struct {
		got  check.Findings
		want string
	}{
		"lost": {r.Lost, "[]"}, "duplicated": {r.Duplicated, "[2 3]"}, "early": {r.Early, "[3]"},
		"foreign": {r.Foreign, "[78]"}, "altered": {r.Altered, "[]"},
	} {
		if got := fmt.Sprint(c.got.IDs); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if len(o.Notes) != 1 || !strings.HasPrefix(o.Notes[0], "1 repetitions accepted, and 2 messages") {
		t.Errorf("notes %q", o.Notes)
	}
	// Without a failover nothing is accepted.
	if got := (&deployment{}).acceptRepetitions(&o, expected, received); len(got) != len(received) {
		t.Errorf("without a failover %d of %d messages are left, want all", len(got), len(received))
	}
}

// TestOnlyBlockedJobsMayFail: a job may fail only with a reason, only if its row was blocked when it
// was due, and only if it was not published.
func TestOnlyBlockedJobsMayFail(t *testing.T) {
	reason, none := "the row cannot be changed", ""
	d := &deployment{blocked: []blockedRows{{topics: []string{"chaos/1", "chaos/2", "chaos/3", "chaos/6"}, to: at(10)}}}
	failures := []failure{
		{id: 1, topic: "chaos/1", fireAt: at(5), reason: &reason},  // may fail
		{id: 2, topic: "chaos/2", fireAt: at(12), reason: &reason}, // due later
		{id: 3, topic: "chaos/3", fireAt: at(5), reason: &none},    // without a reason
		{id: 4, topic: "chaos/4", fireAt: at(5), reason: &reason},  // not blocked
		{id: 6, topic: "chaos/6", fireAt: at(5), reason: &reason},  // also published
		{id: 7, topic: "refused/7", fireAt: at(5)},                 // checked by checkRefused
	}
	expected := []check.Expected{job(1, 5), job(2, 12), job(3, 5), job(4, 5), job(5, 5), job(6, 5)}
	var o Outcome
	left := d.checkFailures(&o, expected, []check.Received{message(5, 5), message(6, 5)}, failures)
	ids := make([]int64, 0, len(left))
	for _, e := range left {
		ids = append(ids, e.ID)
	}
	if got := fmt.Sprint(ids); got != "[2 3 4 5 6]" {
		t.Errorf("jobs that must arrive: %s", got)
	}
	text := strings.Join(o.Findings, "\n")
	if len(o.Findings) != 2 || !strings.Contains(text, "3 jobs failed") || !strings.Contains(text, "job 6 is recorded as failed, and was published") {
		t.Errorf("findings:\n%s", text)
	}
}

// TestRefusedJobsMustFail: a refused job must be recorded with the broker's code and reason.
func TestRefusedJobsMustFail(t *testing.T) {
	code, other, reason := int16(0x87), int16(0), "not authorized"
	good := failure{id: 1, topic: "refused/1", code: &code, reason: &reason}
	var o Outcome
	o.checkRefused([]failure{good, {id: 9, topic: "chaos/9"}})
	if len(o.Findings) != 0 || len(o.Notes) != 1 {
		t.Errorf("findings %q, notes %q", o.Findings, o.Notes)
	}
	for name, bad := range map[string]failure{
		"not recorded": {id: 2, topic: "refused/2"}, "another code": {id: 2, topic: "refused/2", code: &other, reason: &reason},
	} {
		o = Outcome{}
		o.checkRefused([]failure{good, bad})
		if len(o.Findings) != 1 || !strings.HasPrefix(o.Findings[0], "1 of 2") {
			t.Errorf("%s: findings %q", name, o.Findings)
		}
	}
}

// TestLatenessOfJobsWithoutAFault: it is checked only if all faults are harmless.
func TestLatenessOfJobsWithoutAFault(t *testing.T) {
	d := &deployment{cfg: Config{Faults: []string{"rows", "burst"}}, blocked: []blockedRows{{topics: []string{"chaos/2"}}}}
	expected := []check.Expected{job(1, 1), job(2, 1)}
	latenessOf := func(received ...check.Received) Outcome {
		var o Outcome
		d.checkLateness(&o, expected, received)
		return o
	}
	if o := latenessOf(message(1, 3), message(2, 60)); len(o.Findings) != 0 {
		t.Errorf("a blocked job was late: findings %q, want none", o.Findings)
	}
	if o := latenessOf(message(1, 7), message(2, 1)); len(o.Findings) != 1 || !strings.Contains(o.Findings[0], "job 1 by 6s") {
		t.Errorf("a job without a fault was late: findings %q, want one about job 1", o.Findings)
	}
	d.cfg.Faults = append(d.cfg.Faults, "kill")
	if o := latenessOf(message(1, 7)); len(o.Findings) != 0 {
		t.Errorf("a job was late after a kill: findings %q, want none", o.Findings)
	}
}
