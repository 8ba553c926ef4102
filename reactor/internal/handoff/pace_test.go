package handoff

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestOverQuota: a broker that is over quota gets fewer messages at once, and more slowly. In
// the end it gets all of them, and none counts as failed.
func TestOverQuota(t *testing.T) {
	l, s := attachedRig(1, 16)
	f := l.put(1, 100)
	l.launch(f, 0, 100)
	const perSecond = 20
	accepted := 0
	most := 0
	for !l.m.Idle() {
		batch := s.take()
		if l.now.Local > time.Second {
			most = max(most, len(batch))
		}
		var acks []driver.Ack
		for _, m := range batch {
			a := driver.Ack{Slot: m.Slot, Code: driver.CodeQuotaExceeded}
			if accepted < int(l.now.Local.Seconds()*perSecond) {
				a.Code = 0
				accepted++
			}
			acks = append(acks, a)
		}
		l.acks(acks)
		for _, settlement := range l.settleAll() {
			if len(settlement.Failures) > 0 {
				t.Fatalf("failed: %+v", settlement.Failures)
			}
		}
		if len(acks) == 0 {
			l.advance(10 * time.Millisecond)
		}
	}
	if took := l.now.Local; took > 20*time.Second {
		t.Errorf("100 messages took %v at a broker that takes %d a second", took, perSecond)
	}
	if n := l.throttled; n == 0 || n > 400 {
		t.Errorf("the broker had to refuse %d times", n)
	}
	if most > 12 {
		t.Errorf("%d messages at once to a broker that is over quota", most)
	}
}
