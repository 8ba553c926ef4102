package reactor

import (
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// This file calls the Tracer. A span travels with its message, in Properties.Trace; the machine
// says when its outcome is known (handoff.Effects.Spans). Without a Tracer no message has a span, and
// nothing of this costs more than a comparison for each event of a lane.

// beginSpans makes spans of the jobs of a batch that the lane is about to take in. Jobs are claimed
// ahead of their time, and mu is not held, so this makes neither these jobs later nor others.
func (l *lane) beginSpans(b driver.Batch) {
	if l.tracer == nil {
		return
	}
	claim := driver.SpanClaim{Token: b.Token, ClientID: l.clientID, At: l.clock.Now()}
	for i := range b.Jobs {
		job := &b.Jobs[i]
		if job.Topic == "" { // its row is gone, and nothing is sent
			continue
		}
		untraced := job.Properties
		span := l.tracer.Begin(job, claim)
		if span == nil {
			continue
		}
		var traced driver.Properties
		if job.Properties != nil {
			traced = *job.Properties
		}
		traced.Trace = &driver.Trace{Span: span, Untraced: untraced}
		job.Properties = &traced
	}
}

// traceSends tells spans that their messages were sent. The caller holds mu.
func (l *lane) traceSends(sent []driver.Message) {
	if l.tracer == nil {
		return
	}
	for i := range sent {
		if p := sent[i].Properties; p != nil && p.Trace != nil {
			p.Trace.Span.Sent()
		}
	}
}

// endSpans ends spans whose outcome is known. The caller holds mu.
func (l *lane) endSpans(ends []handoff.SpanEnd) {
	if len(ends) == 0 {
		return
	}
	at := l.clock.Now()
	for i := range ends {
		var failure *driver.Failure
		if ends[i].Failed {
			failure = &ends[i].Failure
		}
		ends[i].Span.End(at, failure)
	}
}
