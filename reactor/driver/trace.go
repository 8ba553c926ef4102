package driver

// Tracer makes spans of messages, for a tracing system such as OpenTelemetry. One span covers one
// claim of a job: from its fire_at, or the claim if that is later, until the broker has accepted the
// message or the attempt has failed. A job that is tried again is claimed again, and gets another span.
//
// Spans are for people, and decide nothing: a Tracer must not block, and what it loses costs no job.
// Several goroutines call Begin at the same time. The methods of a Span are called while its lane is
// locked, by one goroutine at a time.
type Tracer interface {
	// Begin is called for each job that was claimed, or recovered from the journal, before its
	// message is sent. It returns nil if the job gets no span.
	//
	// It may replace job.Properties by a copy that carries the span's context (Properties.WithUser),
	// and changes nothing else. If the broker does not take a message of that size, the job is
	// published as it was, and its span is dropped: a trace must not cost a job.
	Begin(job *Job, claim SpanClaim) Span
}

// SpanClaim is the claim that a span belongs to.
type SpanClaim struct {
	// Token identifies the claim for ever (Batch.Token). An instance that recovers the job after a
	// crash finds the same token, and another claim of the job has another one. So a span id that
	// depends on token and job alone is the same in every copy of the message, whoever sends it.
	Token [16]byte
	// ClientID is the lane's client id at the broker.
	ClientID string
	// At is the present time.
	At DBTime
}

// Span is the span of one message. It is dropped without an End if the job is handed back to the table
// unsent, or if the instance gives up its lane: then the next owner begins another one.
type Span interface {
	// Sent is called whenever the message is sent: again after a connection was lost, or when the
	// broker was over its quota.
	Sent()
	// End is called once. failure is nil if the broker has accepted the message: at QoS 2 received
	// it, or released it if it was sent before its time; at QoS 0 the message was written. The
	// failure must not be kept. Failure.Final is false if the job will be tried again, unless its
	// attempts are used up.
	End(at DBTime, failure *Failure)
}

// Trace is what a message that has a span carries through the hand-off.
type Trace struct {
	Span Span
	// Untraced are the job's own properties, or nil.
	Untraced *Properties
}
