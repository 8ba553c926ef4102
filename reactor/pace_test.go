package reactor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestOverQuota: a broker that is over quota gets fewer messages, more slowly, and in the
// end each of them; none counts as failed.
func TestOverQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLane(AtLeastOnce)
		s := newFakeSession(16)
		l.attach(s)
		f := l.put(1, 100)
		l.launch(f, 0, 100)
		const perSecond = 20
		begun, accepted := time.Now(), 0
		most := 0
		for !l.idle() {
			batch := s.take()
			if time.Since(begun) > time.Second {
				most = max(most, len(batch))
			}
			var acks []driver.Ack
			for _, m := range batch {
				a := driver.Ack{Slot: m.Slot, Code: codeQuota}
				if accepted < int(time.Since(begun).Seconds()*perSecond) {
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
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
			}
		}
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("100 messages took %v at a broker that takes %d a second", took, perSecond)
		}
		if n := l.stats.throttled.Load(); n == 0 || n > 400 {
			t.Errorf("the broker had to refuse %d times", n)
		}
		if most > 12 {
			t.Errorf("%d messages at once to a broker that is over quota", most)
		}
	})
}
