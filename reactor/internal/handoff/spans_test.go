package handoff

import (
	"errors"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// namedSpan is a span that the tests tell apart by its job.
type namedSpan struct{ job int64 }

func (*namedSpan) Sent()                              {}
func (*namedSpan) End(driver.DBTime, *driver.Failure) {}

// traced returns a job with a span. due is how far ahead it is due.
func (r *rig) traced(id int64, ahead time.Duration) driver.Job {
	untraced := &driver.Properties{ContentType: "untraced"}
	return driver.Job{
		ID: id, Topic: "t", Payload: []byte("payload"), FireAt: r.now.Database.Add(ahead),
		Properties: &driver.Properties{ContentType: "traced", Trace: &driver.Trace{Span: &namedSpan{id}, Untraced: untraced}},
	}
}

// ended checks which span has ended since the last call, and how: by a failure with this reason code, or
// without one (-1).
func (r *rig) ended(t *testing.T, what string, job int64, code int) driver.Failure {
	t.Helper()
	spans := r.spans
	r.spans = nil
	if len(spans) != 1 {
		t.Fatalf("%s: %d spans have ended, want 1", what, len(spans))
	}
	got := spans[0]
	if got.Span.(*namedSpan).job != job || got.Failed != (code >= 0) || got.Failed && int(got.Failure.Code) != code {
		t.Errorf("%s: the span %+v, want job %d and code %d", what, got, job, code)
	}
	return got.Failure
}

func (r *rig) noneEnded(t *testing.T, what string) {
	t.Helper()
	if len(r.spans) > 0 {
		t.Errorf("%s: a span has ended: %+v", what, r.spans)
	}
	r.spans = nil
}

// claim admits jobs and launches them.
func (r *rig) claim(jobs ...driver.Job) *Batch {
	first, reach, _ := r.m.Room(len(jobs))
	b := r.admit(driver.Batch{ID: jobs[0].ID, FirstSlot: first, Reach: reach, QoS: r.m.cfg.QoS, Jobs: jobs})
	r.launch(b, 0, len(jobs))
	return b
}

// TestSpansEnd: the span of a message ends once, when the outcome of the message is known.
func TestSpansEnd(t *testing.T) {
	r, c := attachedRig(1, 10)
	b := r.claim(r.traced(1, 0), r.traced(2, 0), driver.Job{ID: 3, Topic: "t"})
	r.noneEnded(t, "sent")
	sent := c.take()
	r.acks([]driver.Ack{{Slot: sent[0].Slot}})
	r.ended(t, "PUBACK", 1, -1)
	r.acks([]driver.Ack{{Slot: sent[0].Slot}})
	r.noneEnded(t, "PUBACK again")
	r.acks([]driver.Ack{{Slot: sent[1].Slot, Code: driver.CodeNotAuthorized, Reason: "no"}})
	r.ended(t, "refused", 2, driver.CodeNotAuthorized)
	r.acks([]driver.Ack{{Slot: sent[2].Slot}})
	r.settleAll()
	r.noneEnded(t, "a message without a span, and the settlement")
	if !b.gone {
		t.Fatal("the batch is not settled")
	}

	expired := r.traced(4, 0)
	expired.Expires, expired.ExpiresAt = true, r.now.Database.Add(-time.Second)
	r.claim(expired)
	if f := r.ended(t, "expired", 4, 0); f.State != driver.Expired {
		t.Errorf("the failure is %+v", f)
	}
	r.m.cfg.MaxLateness = time.Minute
	r.claim(r.traced(5, -time.Hour))
	if f := r.ended(t, "missed", 5, 0); f.State != driver.Missed {
		t.Errorf("the failure is %+v", f)
	}
	left := r.traced(6, -time.Second)
	left.LeftOut = true
	r.claim(left)
	if f := r.ended(t, "left out", 6, 0); f.State != driver.Missed || !f.Final {
		t.Errorf("the failure is %+v", f)
	}
}

// TestReasonsGroup: jobs that have ended alike have the same reason, though not the same times, so that they can be counted, and tried
// again together.
func TestReasonsGroup(t *testing.T) {
	r, _ := attachedRig(1, 10)
	r.m.cfg.MaxLateness = time.Minute
	for what, change := range map[string]func(*driver.Job){
		"expired":  func(j *driver.Job) { j.Expires, j.ExpiresAt = true, j.FireAt.Add(time.Second) },
		"missed":   func(j *driver.Job) {},
		"left out": func(j *driver.Job) { j.LeftOut = true },
	} {
		reasons := map[string]bool{}
		for id := range int64(2) {
			job := r.traced(id+1, -time.Duration(id+2)*time.Hour)
			change(&job)
			r.claim(job)
			reasons[r.ended(t, what, id+1, 0).Reason] = true
		}
		if len(reasons) != 1 {
			t.Errorf("%s: the reasons are %v", what, reasons)
		}
	}
}

// TestSpansAcrossConnections: a message that is sent again keeps its span, and its context.
func TestSpansAcrossConnections(t *testing.T) {
	r, c := attachedRig(1, 10)
	r.claim(r.traced(1, 0))
	first := c.take()[0]
	r.detach(errHangUp)
	r.noneEnded(t, "connection lost")
	c = newFakeConnection(10)
	r.attach(c)
	again := c.take()[0]
	if again.Properties != first.Properties || !again.Dup {
		t.Errorf("first %+v, then %+v", first, again)
	}
	r.acks([]driver.Ack{{Slot: again.Slot, Code: driver.CodeQuotaExceeded}})
	r.noneEnded(t, "over quota")
	r.advance(time.Minute)
	r.acks(acksFor(c.take()))
	r.ended(t, "PUBACK", 1, -1)

	once, _ := attachedRig(0, 10)
	once.claim(once.traced(2, 0))
	once.detach(errHangUp)
	once.ended(t, "lost at QoS 0", 2, 0)
}

// TestSpansAtQoS2: the span ends with PUBREC, and what happens later does not end it again.
func TestSpansAtQoS2(t *testing.T) {
	for _, code := range []byte{0, driver.CodeUnknownSlot} {
		r, c := attachedRig(2, 10)
		r.claim(r.traced(1, 0))
		r.acks([]driver.Ack{{Slot: c.take()[0].Slot, Step: driver.Received}})
		r.ended(t, "PUBREC", 1, -1)
		r.settleAll()
		r.acks([]driver.Ack{{Slot: c.freed[0], Step: driver.Released, Code: code}})
		r.settleAll()
		r.noneEnded(t, "PUBCOMP")
	}
}

// TestStagedSpans: a message that is sent before its time is not published before it is released.
func TestStagedSpans(t *testing.T) {
	for _, test := range []struct {
		code byte
		want int
	}{{0, -1}, {driver.CodeUnknownSlot, driver.CodeUnknownSlot}} {
		r, c := attachedRig(2, 10)
		r.carryOut(r.m.Stage(r.now, true))
		first, reach, _ := r.m.Room(1)
		b := r.admit(driver.Batch{ID: 1, FirstSlot: first, Reach: reach, QoS: 2, Jobs: []driver.Job{r.traced(1, 50*time.Millisecond)}})
		r.acks([]driver.Ack{{Slot: c.take()[0].Slot, Step: driver.Received}})
		r.settleAll()
		r.noneEnded(t, "PUBREC before its time")
		r.advance(50 * time.Millisecond)
		r.launch(b, 0, 1)
		r.noneEnded(t, "released")
		r.acks([]driver.Ack{{Slot: c.freed[0], Step: driver.Released, Code: test.code}})
		r.ended(t, "PUBCOMP", 1, test.want)
	}
}

// TestNoSpanEnds: a job that goes back to the table unsent has no outcome.
func TestNoSpanEnds(t *testing.T) {
	r, _ := attachedRig(1, 10)
	first, reach, _ := r.m.Room(1)
	r.admit(driver.Batch{ID: 1, FirstSlot: first, Reach: reach, QoS: 1, Jobs: []driver.Job{r.traced(1, time.Hour)}})
	r.carryOut(r.m.HandBack())
	r.settleAll()
	r.carryOut(r.m.Drop())
	r.noneEnded(t, "handed back")
}

// TestTooLargeWithSpan: what fits the broker's limits only without its span is published without it. What does
// not fit at all fails, and its span says so.
func TestTooLargeWithSpan(t *testing.T) {
	for _, staged := range []bool{false, true} {
		r, c := attachedRig(2, 10)
		if staged {
			r.carryOut(r.m.Stage(r.now, true))
		}
		r.m.connection.Check = func(m driver.Message) error {
			if m.JobID == 2 || m.Properties.ContentType == "traced" {
				return errors.New("too large")
			}
			return nil
		}
		first, reach, _ := r.m.Room(2)
		b := r.admit(driver.Batch{ID: 1, FirstSlot: first, Reach: reach, QoS: 2, Jobs: []driver.Job{r.traced(1, 50*time.Millisecond), r.traced(2, 50*time.Millisecond)}})
		r.noneEnded(t, "before its time")
		r.advance(50 * time.Millisecond)
		r.launch(b, 0, 2)
		r.ended(t, "too large in any way", 2, 0)
		sent := c.take()
		if len(sent) != 1 || sent[0].JobID != 1 || sent[0].Properties.ContentType != "untraced" || sent[0].Properties.Trace != nil {
			t.Fatalf("sent %+v", sent)
		}
		r.acks([]driver.Ack{{Slot: sent[0].Slot, Step: driver.Received}})
		r.noneEnded(t, "published without a span")
	}
}
