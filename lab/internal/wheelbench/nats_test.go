package wheelbench

import (
	"time"

	"github.com/nats-io/nats-server/v2/server/thw"
)

// natsScheduler is the published wheel: the hashed wheel in which NATS stores when messages
// expire. It has one level of 4,096 slots of a second, and each slot is a map. Like ours it is a
// pure structure without a lock or a goroutine. But it can do less: the value is a number of 8
// bytes, entries that are due within the same second have no order, and it reads the clock
// itself.
//
// Because it reads the clock itself, all deadlines lie in the past here, and all entries expire
// in a single sweep. That is its best case: it never visits entries that are not due, while a
// sweep in the middle of a second visits all entries of the slot. So the results for schedule,
// cancel and memory can be compared; that for expire is better than in real use; and a steady
// load cannot be measured.
type natsScheduler struct {
	wheel     *thw.HashWheel
	start     int64
	deadlines []int64
	expired   int
}

func newNATSScheduler(n int) scheduler {
	return &natsScheduler{wheel: thw.NewHashWheel(), start: time.Now().UnixNano() - int64(time.Hour), deadlines: make([]int64, n)}
}

func (s *natsScheduler) schedule(i int, deadline int64) {
	s.deadlines[i] = s.start + deadline*int64(time.Microsecond)
	if err := s.wheel.Add(uint64(i), s.deadlines[i]); err != nil {
		panic(err)
	}
}

func (s *natsScheduler) cancel(i int) {
	if err := s.wheel.Remove(uint64(i), s.deadlines[i]); err != nil {
		panic(err)
	}
}
func (s *natsScheduler) size() int { return int(s.wheel.Count()) }
func (s *natsScheduler) advance(now int64) {
	now = s.start + now*int64(time.Microsecond)
	s.wheel.ExpireTasks(func(_ uint64, deadline int64) bool {
		if deadline > now {
			return false
		}
		s.expired++
		return true
	})
}
