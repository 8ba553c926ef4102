package mqttsink

import "time"

// A broker answers each message by itself, with four bytes. To be woken for each of them
// costs us and the kernel more than all the rest of a message, and as it makes us send the
// next ones by themselves too, it costs the broker as much again. While many answers are
// on their way nobody waits for a single one: the kernel is asked to wake us when some
// have come (SO_RCVLOWAT), and for a few milliseconds at most, in case that they don't.
const (
	// gatherFrom is how many answers must be on their way.
	gatherFrom = 128
	// gatherBytes is how much to wait for: half of them at their shortest.
	gatherBytes = gatherFrom / 2 * 4
	// gatherFor is how long.
	gatherFor = 5 * time.Millisecond
)

// answered takes note of n answers.
func (s *session) answered(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unanswered = max(0, s.unanswered-n) // a broker may answer what nobody asked
}

// gather reports whether the next read is to wait for several answers, and arranges it.
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

// giveUpGathering is for a broker that is slow, or has answered all that it will.
func (s *session) stopGathering() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resetLowWater()
}

// takeWhatIsThere lets the next read wait for a single byte. The caller holds mu.
func (s *session) resetLowWater() {
	s.gathering = false
	s.lowWater.Set(1)
}
