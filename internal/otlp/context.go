package otlp

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/job-publisher/reactor/reactor/driver"
)

// parentHeader and stateHeader are the headers of W3C Trace Context, which over MQTT 5 are user properties
// with these names, in lower case [W3C Trace Context: MQTT protocol, 3].
const (
	parentHeader = "traceparent"
	stateHeader  = "tracestate"
)

// Flags of a trace context [W3C Trace Context Level 2, 3.2.2.5].
const (
	flagSampled = 1
	flagRandom  = 2 // the last seven bytes of the trace id are random
)

// spanContext is what a traceparent says.
type spanContext struct {
	trace [16]byte
	span  [8]byte
	flags byte
}

// parseTraceparent reads a traceparent [W3C Trace Context Level 2, 3.2]. Of a later version it reads
// what version 00 knows, as the standard demands.
func parseTraceparent(text string) (c spanContext, ok bool) {
	const length = 2 + 1 + 32 + 1 + 16 + 1 + 2
	if len(text) < length || text[2] != '-' || text[35] != '-' || text[52] != '-' {
		return c, false
	}
	var version, flags [1]byte
	if !lowerHex(version[:], text[:2]) || !lowerHex(c.trace[:], text[3:35]) || !lowerHex(c.span[:], text[36:52]) || !lowerHex(flags[:], text[53:55]) {
		return c, false
	}
	switch {
	case version[0] == 0xff, version[0] == 0 && len(text) > length, len(text) > length && text[length] != '-':
		return c, false
	case c.trace == [16]byte{}, c.span == [8]byte{}:
		return c, false
	}
	c.flags = flags[0] & (flagSampled | flagRandom)
	return c, true
}

// lowerHex decodes digits into dst. Upper case is not allowed in a traceparent.
func lowerHex(dst []byte, digits string) bool {
	for i := range len(digits) {
		if c := digits[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	_, err := hex.Decode(dst, []byte(digits))
	return err == nil
}

// String is the traceparent.
func (c spanContext) String() string {
	text := append(make([]byte, 0, 55), "00-"...)
	text = append(hex.AppendEncode(text, c.trace[:]), '-')
	text = append(hex.AppendEncode(text, c.span[:]), '-')
	return string(hex.AppendEncode(text, []byte{c.flags}))
}

// header returns the value of a user property.
func header(p *driver.Properties, name string) (value string, found bool) {
	if p == nil {
		return "", false
	}
	for _, u := range p.User {
		if u.Name == name {
			return u.Value, true
		}
	}
	return "", false
}

// sampler decides which jobs get a span.
type sampler struct {
	// parentBased: a job with a traceparent gets one if and only if that is sampled; ratio is for the
	// others.
	parentBased bool
	ratio       float64 // of traces, 0 to 1
}

// samples decides about a trace. All programs decide alike about the same trace id and ratio, because
// all compare the same bits of the id.
func (s sampler) samples(parent *spanContext, trace [16]byte) bool {
	if s.parentBased && parent != nil {
		return parent.flags&flagSampled != 0
	}
	if s.ratio >= 1 {
		return true
	}
	return binary.BigEndian.Uint64(trace[8:])>>1 < uint64(s.ratio*(1<<63))
}
