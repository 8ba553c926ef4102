package wheelbench

import (
	"time"

	"github.com/nats-io/nats-server/v2/server/thw"
)

// natsScheduler is the published wheel: the hashed one in which NATS keeps when messages
// expire, one level of 4,096 slots of a second, each a map. Like ours it is a pure structure
// without a lock or a goroutine, but made for less: the value is a number of 8 bytes, what is
// due within a second comes in no order, and it cannot be told the time. Therefore all
// deadlines lie in the past here, and everything expires in a single sweep. That is its best
// case: entries that are not due cost it nothing, while a sweep in the middle of a second
// would look at all that are in the same slot. So schedule, cancel and memory compare, expire
// flatters it, and a steady load cannot be put to it.
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
