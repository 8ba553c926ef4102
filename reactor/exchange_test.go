package reactor

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/job-publisher/reactor/reactor/driver"
)

// exchangeBroker is a broker by the book [MQTT 5, 4.3.3]: it stores a QoS 2 message
// under its slot, and passes it on and forgets it when it is released.
type exchangeBroker struct {
	t         *testing.T
	stored    map[driver.Slot]int64
	delivered map[int64]int
}

const receiveMaximum = 20

// exchangeSession is a connection to it, on which packets and answers are under way.
type exchangeSession struct {
	fakeSession
	broker  *exchangeBroker
	packets []any        // Message or Slot (released), not yet at the broker
	answers []driver.Ack // not yet at the lane
}

func (s *exchangeSession) Publish(msgs []driver.Message) error {
	for _, m := range msgs {
		s.packets = append(s.packets, m)
	}
	return nil
}

func (s *exchangeSession) Release(slots []driver.Slot) error {
	for _, slot := range slots {
		s.packets = append(s.packets, slot)
	}
	return nil
}

// arrive has the broker take the next n packets.
func (s *exchangeSession) arrive(n int) {
	b := s.broker
	for _, p := range s.packets[:n] {
		switch p := p.(type) {
		case driver.Message:
			if job, used := b.stored[p.Slot]; used && (job != p.JobID || !p.Dup) {
				b.t.Fatalf("job %d (dup %t) uses slot %d, which the broker keeps for job %d", p.JobID, p.Dup, p.Slot, job)
			}
			b.stored[p.Slot] = p.JobID
			if len(b.stored) > receiveMaximum {
				b.t.Fatalf("%d messages at a broker with a Receive Maximum of %d", len(b.stored), receiveMaximum)
			}
			s.answers = append(s.answers, driver.Ack{Slot: p.Slot, Step: driver.Received})
		case driver.Slot:
			code := byte(0)
			if job, used := b.stored[p]; used {
				b.delivered[job]++
				delete(b.stored, p)
			} else {
				code = 0x92 // packet identifier not found
			}
			s.answers = append(s.answers, driver.Ack{Slot: p, Step: driver.Released, Code: code})
		}
	}
	s.packets = slices.Clone(s.packets[n:])
}

// exchangeJournal is what is committed.
type exchangeJournal struct{ batches []driver.Batch }

func (j *exchangeJournal) commit(s driver.Settlement) {
	at := slices.IndexFunc(j.batches, func(b driver.Batch) bool { return b.ID == s.BatchID && b.Round == s.Round })
	switch {
	case at < 0:
	case s.Done:
		j.batches = slices.Delete(j.batches, at, at+1)
	default:
		j.batches[at].Settled = max(j.batches[at].Settled, s.Settled)
	}
}

// TestExchangeAtRandom drives a QoS 2 lane, a broker and a journal through any order of
// events: lost connections, lost answers, a death of the lane's owner at any point, also
// between a commit and what follows it.
func TestExchangeAtRandom(t *testing.T) {
	for seed := range uint64(600) {
		rng := rand.New(rand.NewPCG(seed, 3))
		broker := &exchangeBroker{t: t, stored: map[driver.Slot]int64{}, delivered: map[int64]int{}}
		journal := &exchangeJournal{}
		var (
			l       = newTestLane(ExactlyOnce)
			session *exchangeSession
			pads    []*padded
			next    int64
			jobs    int
		)
		connect := func() {
			session = &exchangeSession{fakeSession: *newFakeSession(receiveMaximum / 2), broker: broker}
			session.limits.Resumed = true
			l.attach(session)
		}
		die := func() { // and be recovered by another
			session, pads = nil, nil
			l = newTestLane(ExactlyOnce)
			l.recovered(slices.Clone(journal.batches), false)
			connect()
		}
		settle := func(dying bool) {
			landed := l.landed
			l.landed = nil
			for _, f := range landed {
				s := l.settlement(f)
				journal.commit(s)
				if !dying {
					l.settled(s, f, true)
				}
			}
		}
		answers := func(n int) {
			batch := session.answers[:n]
			session.answers = slices.Clone(session.answers[n:])
			l.acks(batch)
		}
		connect()
		for range 150 {
			switch rng.IntN(9) {
			case 0, 1:
				n := 1 + rng.IntN(30)
				if _, first, reach, ok := l.room(n); ok {
					next++
					b := driver.Batch{ID: next, FirstSlot: first, Reach: reach, QoS: 2}
					for range n {
						jobs++
						b.Jobs = append(b.Jobs, driver.Job{ID: int64(jobs), Topic: "t"})
					}
					journal.batches = append(journal.batches, b)
					pads = append(pads, &padded{flying: l.admit(b)})
				}
			case 2, 3:
				if len(pads) > 0 {
					p := pads[rng.IntN(len(pads))]
					from := p.next
					p.next += rng.IntN(p.jobs - p.next + 1)
					l.launch(p.flying, from, p.next)
				}
			case 4:
				if session != nil {
					session.arrive(rng.IntN(len(session.packets) + 1))
				}
			case 5:
				if session != nil {
					answers(rng.IntN(len(session.answers) + 1))
				}
			case 6:
				settle(false)
			case 7:
				if session == nil {
					connect()
				} else if rng.IntN(3) == 0 {
					for _, p := range session.packets[rng.IntN(len(session.packets)+1):] {
						if slot, ok := p.(driver.Slot); ok {
							session.unreleased = append(session.unreleased, slot)
						}
					}
					l.detach(errHangUp)
					session = nil
				}
			case 8:
				if rng.IntN(10) == 0 {
					if rng.IntN(2) == 0 {
						settle(true)
					}
					die()
				}
			}
		}
		die()
		for len(session.packets)+len(session.answers)+len(l.landed) > 0 {
			session.arrive(len(session.packets))
			answers(len(session.answers))
			settle(false)
		}
		for id := range int64(jobs) {
			if n := broker.delivered[id+1]; n != 1 {
				t.Fatalf("seed %d: job %d was delivered %d times", seed, id+1, n)
			}
		}
		if len(journal.batches) > 0 || !l.idle() || l.wire != 0 || len(broker.stored) > 0 {
			t.Fatalf("seed %d: %d batches in the journal, idle %t, wire %d, %d stored", seed, len(journal.batches), l.idle(), l.wire, len(broker.stored))
		}
	}
}

// TestSessionLost: by policy, what was on its way is sent again or fails; what the
// broker never had is not touched.
func TestSessionLost(t *testing.T) {
	for _, policy := range []SessionLossPolicy{Republish, Fail} {
		t.Run(policy.String(), func(t *testing.T) {
			l := newTestLane(ExactlyOnce)
			l.onLoss = policy
			s := newFakeSession(3)
			l.attach(s)
			f := l.put(1, 5)
			l.launch(f, 0, 5)
			sent := s.take() // three, two are queued
			l.acks([]driver.Ack{{Slot: sent[0].Slot, Step: driver.Received}, {Slot: sent[1].Slot, Step: driver.Received}})
			list := l.settleAll()
			if len(list) != 1 || list[0].Settled != 2 || len(s.freed) != 2 {
				t.Fatalf("settled %+v, released %v", list, s.freed)
			}
			l.detach(errHangUp)
			l.lose(7)
			s = newFakeSession(10)
			l.attach(s)
			want := map[SessionLossPolicy]int{Republish: 5, Fail: 2}[policy]
			sent = s.take()
			if len(sent) != want || sent[0].Dup || len(s.freed) != 0 {
				t.Fatalf("sent %+v, released %v; want %d new messages", sent, s.freed, want)
			}
			var acks []driver.Ack
			for _, m := range sent {
				acks = append(acks, driver.Ack{Slot: m.Slot, Step: driver.Received})
			}
			l.acks(acks)
			list = l.settleAll()
			if len(list) != 1 || list[0].Round != 7 || list[0].Settled != 5 || len(list[0].Failures) != 5-want {
				t.Fatalf("settled %+v", list)
			}
			l.acks(releasesFor(s.freed))
			if list = l.settleAll(); len(list) != 1 || !list[0].Done || !l.idle() {
				t.Fatalf("settled %+v, idle %t", list, l.idle())
			}
			if n := l.stats.outcomesUnknown.Load(); n != 3 {
				t.Errorf("%d outcomes are counted as unknown, want 3", n)
			}
		})
	}
}

// TestLostLaneReleasesNothing: what the journal could not be told belongs to the new owner.
func TestLostLaneReleasesNothing(t *testing.T) {
	l := newTestLane(ExactlyOnce)
	ctx, cancel := context.WithCancel(t.Context())
	l.leaveBy(cancel)
	s := newFakeSession(3)
	l.attach(s)
	f := l.put(1, 1)
	l.launch(f, 0, 1)
	l.acks([]driver.Ack{{Slot: s.take()[0].Slot, Step: driver.Received}})
	l.settled(l.settlement(f), f, false)
	if len(s.freed) > 0 {
		t.Error("released a message whose receipt was not committed")
	}
	if _, _, _, ok := l.room(1); ok || !errors.Is(ctx.Err(), context.Canceled) {
		t.Error("the lane goes on")
	}
}
