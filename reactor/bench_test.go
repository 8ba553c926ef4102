package reactor

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/alarm"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/load"
)

// The stages of a job in memory, without the database and the broker. An op is one job, so
// allocs/op shows what each costs beside its message.

// instantSession takes all messages and only counts them.
type instantSession struct {
	fakeSession
	acks []driver.Ack
}

func (s *instantSession) Publish(msgs []driver.Message) error {
	step := driver.Completed
	if msgs[0].QoS == 2 {
		step = driver.Received
	}
	for _, m := range msgs {
		s.acks = append(s.acks, driver.Ack{Slot: m.Slot, Step: step})
	}
	return nil
}

func (s *instantSession) Release(slots []driver.Slot) error {
	for _, slot := range slots {
		s.acks = append(s.acks, driver.Ack{Slot: slot, Step: driver.Released})
	}
	return nil
}

// BenchmarkLane passes batches through a lane: they are claimed, launched, answered, settled.
func BenchmarkLane(b *testing.B) {
	for _, delivery := range []Delivery{ExactlyOnce, AtLeastOnce} {
		b.Run(delivery.String(), func(b *testing.B) {
			const rows = maxClaim
			l := newTestLane(delivery)
			s := &instantSession{fakeSession: *newFakeSession(512)}
			l.attach(s)
			batch := driver.Batch{QoS: delivery.QoS(), Jobs: make([]driver.Job, rows)}
			for i := range batch.Jobs {
				batch.Jobs[i] = driver.Job{ID: int64(i + 1), Topic: "topic", Payload: []byte("payload")}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += rows {
				_, batch.FirstSlot, batch.Reach, _ = l.room(rows)
				f := l.admit(batch)
				l.launch(f, 0, rows)
				for !l.idle() {
					acks := s.acks
					s.acks = s.acks[len(s.acks):]
					l.acks(acks)
					for _, b := range l.news {
						l.settled(l.settlement(b), b, true)
					}
					l.news = l.news[:0]
				}
				s.acks = s.acks[:0]
			}
		})
	}
}

// BenchmarkDispatch loads jobs in pages and hands them out in batches, with a backlog of
// 100,000 in memory, which is overdue from the first moment on.
func BenchmarkDispatch(b *testing.B) {
	const page, backlog = 4096, 100_000
	wake, err := alarm.New()
	if err != nil {
		b.Fatal(err)
	}
	defer wake.Close()
	d := &dispatcher{clock: newClock(discard()), lead: newLead(), largeLead: newLead(), pending: new(atomic.Int64), firstDue: new(atomic.Int64), ahead: new(ahead), rows: maxClaim, capacity: 1 << 18, overdue: time.Second, wake: wake}
	d.reset()
	rows := make([]driver.Pending, page)
	id := int64(0)
	load := func() {
		now := d.clock.Now()
		for i := range rows {
			id++
			rows[i] = driver.Pending{ID: id, DueAt: now.Add(-time.Minute), Bytes: 50}
		}
		d.add(load.Read{Rows: rows})
	}
	for d.waiting.Load() < backlog {
		load()
	}
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		if d.waiting.Load() < backlog {
			load()
		}
		d.collect()
		for _, batch := range []*due{&d.next, &d.overdueNext} {
			done += len(batch.ids)
			d.forget(finished{ids: batch.ids})
			*batch = due{}
		}
		d.counted()
	}
}
