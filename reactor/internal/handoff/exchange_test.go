package handoff

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/job-publisher/reactor/reactor/driver"
)

// receiveMaximum is the Receive Maximum of the broker in these tests.
const receiveMaximum = 20

// bookBroker is a broker as the standard describes it [MQTT 5, 4.3.3]: it stores a QoS 2
// message under its slot. When the message is released, the broker passes it on and forgets it.
type bookBroker struct {
	t         testing.TB
	stored    map[driver.Slot]int64
	delivered map[int64]int
}

// bookConnection is a connection to it, on which packets and answers are under way.
type bookConnection struct {
	*fakeConnection
	broker  *bookBroker
	packets []any        // driver.Message, or driver.Slot (released); not yet at the broker
	answers []driver.Ack // not yet at the machine
}

// flush lets the sent packets leave.
func (c *bookConnection) flush() {
	for _, s := range c.freed {
		c.packets = append(c.packets, s)
	}
	for _, m := range c.take() {
		c.packets = append(c.packets, m)
	}
	c.freed = nil
}

// arrive has the broker take the next n packets.
func (c *bookConnection) arrive(n int) {
	b := c.broker
	for _, p := range c.packets[:n] {
		switch p := p.(type) {
		case driver.Message:
			if job, used := b.stored[p.Slot]; used && (job != p.JobID || !p.Dup) {
				b.t.Fatalf("job %d (dup %t) uses slot %d, which the broker keeps for job %d", p.JobID, p.Dup, p.Slot, job)
			}
			b.stored[p.Slot] = p.JobID
			if len(b.stored) > receiveMaximum {
				b.t.Fatalf("%d messages at a broker with a Receive Maximum of %d", len(b.stored), receiveMaximum)
			}
			c.answers = append(c.answers, driver.Ack{Slot: p.Slot, Step: driver.Received})
		case driver.Slot:
			code := byte(0)
			if job, used := b.stored[p]; used {
				b.delivered[job]++
				delete(b.stored, p)
			} else {
				code = driver.CodeUnknownSlot
			}
			c.answers = append(c.answers, driver.Ack{Slot: p, Step: driver.Released, Code: code})
		}
	}
	c.packets = slices.Clone(c.packets[n:])
}

// bookJournal is the committed state of the journal, and which jobs are recorded as failed.
type bookJournal struct {
	batches []driver.Batch
	failed  map[int64]bool
}

func (j *bookJournal) commit(s driver.Settlement) {
	at := slices.IndexFunc(j.batches, func(b driver.Batch) bool { return b.ID == s.BatchID && b.Round == s.Round })
	if at >= 0 {
		for _, f := range s.Failures {
			j.failed[f.JobID] = true
		}
	}
	switch {
	case at < 0:
	case s.Done:
		j.batches = slices.Delete(j.batches, at, at+1)
	default:
		j.batches[at].Concluded = max(j.batches[at].Concluded, s.Concluded)
	}
}

// padded is a batch of which a part has been launched.
type padded struct {
	*Batch
	next int // the first job that was not launched
}

// exchange drives a QoS 2 lane, a broker and a journal through the events that choose picks:
// lost connections, lost answers, a death of the lane's owner at any point, also between a
// commit and what follows it. choose(n) is a number from 0 up to n-1; more says how long to go
// on. In the end a last owner takes over, and each job must have been delivered once. Only one at which
// connections have ended again and again is given up: that must be recorded, and it may not be delivered twice either.
func exchange(t testing.TB, choose func(n int) int, more func() bool) {
	broker := &bookBroker{t: t, stored: map[driver.Slot]int64{}, delivered: map[int64]int{}}
	journal := &bookJournal{failed: map[int64]bool{}}
	var (
		l    = newRig(2)
		conn *bookConnection
		pads []*padded
		next int64
		jobs int
		ends int // of connections
	)
	connect := func() {
		conn = &bookConnection{fakeConnection: newFakeConnection(receiveMaximum / 2), broker: broker}
		l.attach(conn.fakeConnection)
		conn.flush()
	}
	die := func() { // another owner recovers the lane
		conn, pads = nil, nil
		l = newRig(2)
		l.recovered(slices.Clone(journal.batches), false)
		connect()
	}
	settle := func(dying bool) {
		news := l.news
		l.news = nil
		for _, b := range news {
			s := l.m.Settlement(b)
			journal.commit(s)
			if !dying {
				l.settled(s, b, true)
			}
		}
	}
	answers := func(n int) {
		batch := conn.answers[:n]
		conn.answers = slices.Clone(conn.answers[n:])
		l.acks(batch)
	}
	connect()
	for more() {
		switch choose(9) {
		case 0, 1:
			n := 1 + choose(30)
			if first, reach, ok := l.m.Room(n); ok {
				next++
				b := driver.Batch{ID: next, FirstSlot: first, Reach: reach, QoS: 2}
				for range n {
					jobs++
					b.Jobs = append(b.Jobs, driver.Job{ID: int64(jobs), Topic: "t"})
				}
				journal.batches = append(journal.batches, b)
				pads = append(pads, &padded{Batch: l.admit(b)})
			}
		case 2, 3:
			if len(pads) > 0 {
				p := pads[choose(len(pads))]
				from := p.next
				p.next += choose(p.jobs - p.next + 1)
				l.launch(p.Batch, from, p.next)
			}
		case 4:
			if conn != nil {
				conn.arrive(choose(len(conn.packets) + 1))
			}
		case 5:
			if conn != nil {
				answers(choose(len(conn.answers) + 1))
			}
		case 6:
			settle(false)
		case 7:
			if conn == nil {
				connect()
			} else if choose(3) == 0 {
				for _, p := range conn.packets[choose(len(conn.packets)+1):] {
					if slot, ok := p.(driver.Slot); ok {
						conn.unreleased = append(conn.unreleased, slot)
					}
				}
				l.detach(errHangUp)
				conn = nil
				ends++
			}
		case 8:
			if choose(10) == 0 {
				if choose(2) == 0 {
					settle(true)
				}
				die()
			}
		}
		if conn != nil {
			conn.flush()
		}
	}
	die()
	for len(conn.packets)+len(conn.answers)+len(l.news) > 0 {
		conn.arrive(len(conn.packets))
		answers(len(conn.answers))
		settle(false)
		conn.flush()
	}
	for id := range int64(jobs) {
		n, failed := broker.delivered[id+1], journal.failed[id+1]
		if n != 1 && !(n == 0 && failed) || failed && ends < endingsSilent {
			t.Fatalf("job %d was delivered %d times, failed %t, after %d ends of connections", id+1, n, failed, ends)
		}
	}
	if len(journal.batches) > 0 || !l.m.Idle() || l.m.inFlight != 0 || len(broker.stored) > 0 {
		t.Fatalf("%d batches in the journal, idle %t, %d in flight, %d stored", len(journal.batches), l.m.Idle(), l.m.inFlight, len(broker.stored))
	}
}

func TestExchangeAtRandom(t *testing.T) {
	for seed := range uint64(600) {
		rng := rand.New(rand.NewPCG(seed, 3))
		steps := 150
		exchange(t, rng.IntN, func() bool { steps--; return steps >= 0 })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// FuzzExchange takes its choices from the input, a byte each.
func FuzzExchange(f *testing.F) {
	for seed := range uint64(8) {
		rng, data := rand.New(rand.NewPCG(seed, 4)), make([]byte, 300)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		choose := func(n int) int {
			if len(data) == 0 {
				return 0
			}
			c := int(data[0]) % n
			data = data[1:]
			return c
		}
		exchange(t, choose, func() bool { return len(data) > 0 })
	})
}
