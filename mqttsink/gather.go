package mqttsink

import "time"

// A broker answers each message separately, with four bytes. Waking up for each answer costs us and
// the kernel more than everything else for the message. It also makes us send the next messages one
// by one, which costs the broker as much again. While many answers are outstanding, nobody waits
// for a single one. So we let the kernel wake us only when several have arrived (SO_RCVLOWAT), or
// after a few milliseconds, in case they do not arrive.
const (
	// gatherFrom is how many answers must be outstanding before reads wait for several.
	gatherFrom = 128
	// gatherBytes is how many bytes such a read waits for: half of the answers in their shortest
	// form.
	gatherBytes = gatherFrom / 2 * 4
	// gatherFor is how long such a read waits at most.
	gatherFor = 5 * time.Millisecond
)

// answered counts n answers.
func (s *session) answered(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unanswered = max(0, s.unanswered-n) // a broker may send answers without a request
	s.pinged, s.ignored = 0, time.Time{}
}

// gather prepares the next read to wait for several answers, and reports whether it will.
func (s *session) gather() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unanswered < gatherFrom || s.state >= disconnecting {
		s.resetLowWater()
		return false
	}
	s.gathering = s.lowWater.Set(gatherBytes) && s.conn.SetReadDeadline(time.Now().Add(gatherFor)) == nil
	return s.gathering
}

// stopGathering is for a broker that is slow, or has sent all its answers.
func (s *session) stopGathering() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resetLowWater()
}

// resetLowWater lets the next read return as soon as there is one byte. The caller holds mu.
func (s *session) resetLowWater() {
	s.gathering = false
	s.lowWater.Set(1)
}
