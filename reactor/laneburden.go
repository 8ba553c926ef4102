package reactor

import "github.com/job-publisher/reactor/reactor/internal/handoff"

// What a lane has to carry, as far as others have to know.

// weigh tells the budget what the lane holds. The caller holds mu.
func (l *lane) weigh() {
	if l.budget == nil {
		return
	}
	small, large := l.machine.Payloads()
	l.budget.change(small-l.counted.small, large-l.counted.large)
	l.counted.small, l.counted.large = small, large
}

// leaveBudget has the lane count no more: it has ended, or keeps what it holds for long (noteFarAhead).
func (l *lane) leaveBudget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.budget != nil {
		l.budget.change(-l.counted.small, -l.counted.large)
		l.budget = nil
	}
}

// able reports whether the lane can send.
func (l *lane) able() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session != nil && !l.doubted && l.leased()
}

// holds reports whether what is claimed now may have to wait for the batch.
func (l *lane) holds(b *handoff.Batch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machine.Holds(b)
}
