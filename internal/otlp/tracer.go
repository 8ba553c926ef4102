package otlp

import (
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"sync"
	"time"

	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Tracer implements driver.Tracer. Run exports what it makes.
type Tracer struct {
	cfg    Config
	log    *slog.Logger
	queue  queue
	common []*commonpb.KeyValue // attributes of all spans
	pause  time.Duration        // after a failed request, at first
}

var _ driver.Tracer = (*Tracer)(nil)

// New returns a Tracer.
func New(cfg Config, log *slog.Logger) *Tracer {
	return &Tracer{
		cfg: cfg, log: log, common: commonAttributes(cfg.Broker), pause: firstPause,
		queue: queue{most: cfg.MaxQueue, batch: cfg.BatchSpans, ready: make(chan struct{}, 1)},
	}
}

// span is the span of one message. Its lane's lock guards it until End, and then it does not change.
type span struct {
	queue             *queue
	context           spanContext
	parent            [8]byte // zero: it is the root of its trace
	state             string  // tracestate
	job               int64
	topic, client     string
	payloadBytes      int
	fireAt, begin, at driver.DBTime
	sends             int
	failed            bool
	failure           driver.Failure
}

var _ driver.Span = (*span)(nil)

// Begin implements driver.Tracer. A traceparent that cannot be read passes through, and its job gets no span:
// its trace is not known, and another one would hide that.
func (t *Tracer) Begin(job *driver.Job, claim driver.SpanClaim) driver.Span {
	text, found := header(job.Properties, parentHeader)
	if !found && t.cfg.sampler.ratio <= 0 {
		return nil
	}
	s := &span{
		job: job.ID, topic: job.Topic, client: claim.ClientID, payloadBytes: len(job.Payload),
		fireAt: job.FireAt, begin: max(job.FireAt, claim.At), queue: &t.queue,
	}
	ids := idsOf(claim.Token, job.ID)
	var parent *spanContext
	if found {
		p, ok := parseTraceparent(text)
		if !ok {
			return nil
		}
		parent = &p
		s.parent, s.context = p.span, spanContext{trace: p.trace, flags: p.flags | flagSampled}
		s.state, _ = header(job.Properties, stateHeader)
	} else {
		s.context = spanContext{trace: ids.trace, flags: flagSampled | flagRandom}
	}
	if !t.cfg.sampler.samples(parent, s.context.trace) {
		return nil
	}
	s.context.span = ids.span
	job.Properties = job.Properties.WithUser(parentHeader, s.context.String())
	return s
}

// spanIDs are ids for a span, and for its trace if it is the root.
type spanIDs struct {
	trace [16]byte
	span  [8]byte
}

// idsOf derives the ids from the claim and the job. The claim's token is random. So the ids are, and
// whoever recovers the job finds the same: the message that the broker has, whoever sent it, names a
// span that exists.
func idsOf(token [16]byte, job int64) (ids spanIDs) {
	var text [24]byte
	copy(text[:], token[:])
	binary.BigEndian.PutUint64(text[16:], uint64(job))
	sum := sha256.Sum256(text[:])
	copy(ids.trace[:], sum[:])
	copy(ids.span[:], sum[16:])
	return ids
}

// Sent implements driver.Span.
func (s *span) Sent() { s.sends++ }

// End implements driver.Span.
func (s *span) End(at driver.DBTime, failure *driver.Failure) {
	s.at = at
	if failure != nil {
		s.failed, s.failure = true, *failure
	}
	s.queue.add(s)
}

// queue holds spans until they are exported. It is bounded: when it is full, the newest span is dropped
// and counted, and nobody waits.
type queue struct {
	most, batch int
	ready       chan struct{} // one slot: there are as many as one export takes

	mu       sync.Mutex
	spans    []*span // guarded by mu: oldest first
	dropped  int64   // guarded by mu
	exported int64   // guarded by mu
}

func (q *queue) add(s *span) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.spans) >= q.most {
		q.dropped++
		return
	}
	if q.spans = append(q.spans, s); len(q.spans) >= q.batch {
		select {
		case q.ready <- struct{}{}:
		default:
		}
	}
}

// first returns the oldest spans, as many as one export takes. They keep their room until done is called.
func (q *queue) first() []*span {
	q.mu.Lock()
	defer q.mu.Unlock()
	return append([]*span(nil), q.spans[:min(len(q.spans), q.batch)]...)
}

// done removes the n oldest spans, of which some were lost.
func (q *queue) done(n, lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	rest := copy(q.spans, q.spans[n:])
	clear(q.spans[rest:])
	q.spans = q.spans[:rest]
	q.dropped += int64(lost)
	q.exported += int64(n - lost)
}

// len is how many spans wait.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.spans)
}

// Counts are the spans that the collector has accepted, and those that were lost: the queue was full, or
// the collector did not accept them.
func (t *Tracer) Counts() (exported, dropped int64) {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	return t.queue.exported, t.queue.dropped
}
