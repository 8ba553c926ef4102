package otlp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Names of attributes. Those of messaging are OpenTelemetry's semantic conventions for a "send" span whose
// context the message carries; they know no MQTT, so what is ours begins with reactor.
const (
	scope       = "github.com/job-publisher/reactor"
	operation   = "publish"
	lateness    = "reactor.lateness" // seconds from fire_at to the end
	sends       = "reactor.sends"
	outcomeName = "reactor.outcome"
	reasonCode  = "reactor.reason_code"
)

// Values of reactor.outcome.
const (
	acked   = "acked"
	refused = "refused"
	failed  = "failed"
)

// request is what is sent to the collector.
func (t *Tracer) request(spans []*span) *collectorpb.ExportTraceServiceRequest {
	list := make([]*tracepb.Span, len(spans))
	for i, s := range spans {
		list[i] = s.message(t.common)
	}
	resource := make([]*commonpb.KeyValue, len(t.cfg.Resource))
	for i, a := range t.cfg.Resource {
		resource[i] = text(a.Name, a.Value)
	}
	return &collectorpb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource:   &resourcepb.Resource{Attributes: resource},
		ScopeSpans: []*tracepb.ScopeSpans{{Scope: &commonpb.InstrumentationScope{Name: scope}, Spans: list}},
	}}}
}

// commonAttributes are the same for all spans, and are made once.
func commonAttributes(broker Broker) []*commonpb.KeyValue {
	common := []*commonpb.KeyValue{
		text("messaging.system", "mqtt"),
		text("messaging.operation.type", "send"),
		text("messaging.operation.name", operation),
	}
	if broker.Host != "" {
		common = append(common, text("server.address", broker.Host), number("server.port", broker.Port))
	}
	return common
}

// message is the span in OTLP's form. Its times are those of the database's clock, by which jobs are
// due; a message that is refused before its time has a span of no length.
func (s *span) message(common []*commonpb.KeyValue) *tracepb.Span {
	m := &tracepb.Span{
		TraceId: s.context.trace[:], SpanId: s.context.span[:], TraceState: valid(s.state), Flags: s.flags(),
		Name: valid(operation + " " + s.topic), Kind: tracepb.Span_SPAN_KIND_PRODUCER,
		StartTimeUnixNano: nanoseconds(min(s.begin, s.at)), EndTimeUnixNano: nanoseconds(s.at),
		Attributes: append(slices.Clip(common),
			text("messaging.destination.name", s.topic),
			text("messaging.message.id", strconv.FormatInt(s.job, 10)),
			text("messaging.client.id", s.client),
			number("messaging.message.body.size", s.payloadBytes),
			&commonpb.KeyValue{Key: lateness, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_DoubleValue{DoubleValue: s.at.Sub(s.fireAt).Seconds()}}},
			number(sends, s.sends),
			text(outcomeName, s.outcome()),
		),
	}
	if s.parent != [8]byte{} {
		m.ParentSpanId = s.parent[:]
	}
	if s.failed {
		kind := s.outcome()
		if s.failure.Code != 0 {
			kind = fmt.Sprintf("0x%02x", s.failure.Code)
			m.Attributes = append(m.Attributes, number(reasonCode, int(s.failure.Code)))
		}
		m.Attributes = append(m.Attributes, text("error.type", kind))
		m.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: valid(s.failure.Reason)}
	}
	return m
}

// outcome says how the attempt has ended. A job that is refused or has failed may be tried again, with a span of
// its own.
func (s *span) outcome() string {
	switch f := s.failure; {
	case !s.failed:
		return acked
	case f.State != driver.Failed:
		return f.State.String()
	case f.Code != 0 && f.Code != driver.CodeUnknownSlot: // that one says that the outcome is not known
		return refused
	}
	return failed
}

// flags are those of the context, and whether the parent is another program's.
func (s *span) flags() uint32 {
	flags := uint32(s.context.flags) | uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	if s.parent != [8]byte{} {
		flags |= uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	return flags
}

func nanoseconds(t driver.DBTime) uint64 { return uint64(t) * uint64(time.Microsecond) }

// text is an attribute. Protocol buffers refuse a whole request for one text that is not UTF-8.
func text(name, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: valid(name), Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: valid(value)}}}
}

func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

func number(name string, value int) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: name, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: int64(value)}}}
}
