package handoff

// What a lane holds, for whoever decides what it is to take next.

// LargePayload is from which size on a payload counts as large, in bytes.
const LargePayload = 128 << 10

// weigh adds a payload to what the machine holds, or takes it away (sign -1).
func (m *Machine) weigh(payloadBytes, sign int) {
	m.bytes += sign * payloadBytes
	if payloadBytes >= LargePayload {
		m.largeBytes += sign * payloadBytes
	}
}

// Payloads is how many bytes of payloads are held of messages that have not ended: small ones,
// and large ones.
func (m *Machine) Payloads() (small, large int) { return m.bytes - m.largeBytes, m.largeBytes }

// Holds reports whether what is claimed now may have to wait for the batch: some of it is still to
// be sent, or, at QoS 2, to be recorded (base).
func (m *Machine) Holds(b *Batch) bool {
	concluded := b.concluded
	if b.qos == 2 {
		concluded = b.recorded.concluded
	}
	return !b.gone && concluded < b.kept
}
