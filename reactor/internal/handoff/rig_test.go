package handoff

import (
	"errors"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// rig drives a machine, and carries out its effects: packets go to a fake connection, news into
// a list.
type rig struct {
	m    *Machine
	now  Now
	conn *fakeConnection // nil: there is none
	news []*Batch

	spans []SpanEnd

	outcomesUnknown, throttled int
	notOurs                    bool
	wake                       time.Duration // local instant; 0: none
}

// newRig returns a rig whose machine uses a QoS.
func newRig(qos byte) *rig {
	return &rig{
		m:   New(Config{QoS: qos}),
		now: Now{Database: driver.DBTimeOf(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)), Leased: true},
	}
}

// attachedRig returns a rig with a connection to a broker that takes window messages at once.
func attachedRig(qos byte, window int) (*rig, *fakeConnection) {
	r, c := newRig(qos), newFakeConnection(window)
	r.attach(c)
	return r, c
}

func (r *rig) carryOut(e *Effects) {
	if len(e.Release)+len(e.Publish) > 0 {
		r.conn.freed = append(r.conn.freed, e.Release...)
		r.conn.sent = append(r.conn.sent, e.Publish...)
	}
	for _, n := range e.News {
		r.news = append(r.news, n.Batch)
	}
	r.spans = append(r.spans, e.Spans...)
	r.outcomesUnknown += e.OutcomesUnknown
	r.throttled += e.Throttled
	r.notOurs = r.notOurs || e.NotOurs
	if e.Wake > 0 {
		r.wake = r.now.Local + e.Wake
	}
}

// advance lets time pass, and calls Resume when the machine has asked for it.
func (r *rig) advance(d time.Duration) {
	r.now.Local += d
	r.now.Database = r.now.Database.Add(d)
	if r.wake > 0 && r.wake <= r.now.Local {
		r.wake = 0
		r.carryOut(r.m.Resume(r.now))
	}
}

func (r *rig) attach(c *fakeConnection) {
	r.conn = c
	r.carryOut(r.m.Connect(r.now, Connection{Limits: c.limits, Check: c.check}))
}

func (r *rig) detach(why error) {
	var unreleased []driver.Slot
	if r.conn != nil {
		unreleased = r.conn.unreleased
	}
	r.conn = nil
	r.carryOut(r.m.Disconnect(why, unreleased))
}

func (r *rig) acks(acks []driver.Ack) { r.carryOut(r.m.Acks(r.now, acks)) }

func (r *rig) launch(b *Batch, from, to int) { r.carryOut(r.m.Launch(r.now, b, from, to)) }

func (r *rig) admit(claimed driver.Batch) *Batch {
	b, e := r.m.Admit(r.now, claimed)
	r.carryOut(e)
	return b
}

func (r *rig) recovered(batches []driver.Batch, lost bool) []Early {
	early, e := r.m.Recover(r.now, batches, lost)
	r.carryOut(e)
	return early
}

func (r *rig) settled(s driver.Settlement, b *Batch, recorded bool) {
	r.carryOut(r.m.Settled(r.now, b, s, recorded))
}

// settleAll settles all news, and returns the settlements.
func (r *rig) settleAll() []driver.Settlement {
	var list []driver.Settlement
	news := r.news
	r.news = nil
	for _, b := range news {
		s := r.m.Settlement(b)
		r.settled(s, b, true)
		list = append(list, s)
	}
	return list
}

// put admits a batch of n jobs, ids from 1000 times its own.
func (r *rig) put(id int64, n int) *Batch {
	first, reach, _ := r.m.Room(n)
	b := driver.Batch{ID: id, FirstSlot: first, Reach: reach, QoS: r.m.cfg.QoS}
	for i := range n {
		b.Jobs = append(b.Jobs, driver.Job{ID: id*1000 + int64(i), Topic: "t", Payload: []byte("payload")})
	}
	return r.admit(b)
}

// fakeConnection records what is sent over it.
type fakeConnection struct {
	limits driver.Limits
	sent   []driver.Message
	freed  []driver.Slot // released
	// unreleased are the slots for which PUBREL was certainly not sent.
	unreleased []driver.Slot
	bad        string // topic that Check objects to
}

func newFakeConnection(inFlight int) *fakeConnection {
	return &fakeConnection{limits: driver.Limits{InFlight: inFlight, QoS: 2}}
}

func (c *fakeConnection) check(m driver.Message) error {
	if m.Topic == c.bad {
		return errors.New("bad topic")
	}
	return nil
}

// take returns what was sent since the last call.
func (c *fakeConnection) take() []driver.Message {
	sent := c.sent
	c.sent = nil
	return sent
}

var errHangUp = errors.New("hung up")

// releasesFor are the answers to the releases of slots.
func releasesFor(slots []driver.Slot) []driver.Ack {
	var acks []driver.Ack
	for _, s := range slots {
		acks = append(acks, driver.Ack{Slot: s, Step: driver.Released})
	}
	return acks
}

func acksFor(msgs []driver.Message) []driver.Ack {
	var acks []driver.Ack
	for _, m := range msgs {
		acks = append(acks, driver.Ack{Slot: m.Slot})
	}
	return acks
}

// BenchmarkMachine passes batches through a lane: they are claimed, launched, answered,
// settled. An op is one job.
func BenchmarkMachine(b *testing.B) {
	for _, qos := range []byte{2, 1} {
		b.Run([]string{"at-most-once", "at-least-once", "exactly-once"}[qos], func(b *testing.B) {
			m, now := New(Config{QoS: qos}), Now{Leased: true}
			claimed := driver.Batch{QoS: qos, Jobs: make([]driver.Job, MaxClaim)}
			for i := range claimed.Jobs {
				claimed.Jobs[i] = driver.Job{ID: int64(i + 1), Topic: "topic", Payload: []byte("payload")}
			}
			var acks, answers []driver.Ack
			var news []*Batch
			do := func(e *Effects) {
				for _, s := range e.Release {
					acks = append(acks, driver.Ack{Slot: s, Step: driver.Released})
				}
				for i := range e.Publish {
					step := driver.Completed
					if qos == 2 {
						step = driver.Received
					}
					acks = append(acks, driver.Ack{Slot: e.Publish[i].Slot, Step: step})
				}
				for _, n := range e.News {
					news = append(news, n.Batch)
				}
			}
			do(m.Connect(now, Connection{Limits: driver.Limits{InFlight: 512, QoS: 2}}))
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += MaxClaim {
				claimed.FirstSlot, claimed.Reach, _ = m.Room(MaxClaim)
				batch, e := m.Admit(now, claimed)
				do(e)
				do(m.Launch(now, batch, 0, MaxClaim))
				for !batch.gone {
					acks, answers = answers[:0], acks
					do(m.Acks(now, answers))
					for len(news) > 0 {
						n := news[0]
						news = news[1:]
						do(m.Settled(now, n, m.Settlement(n), true))
					}
					news = news[:0]
				}
			}
		})
	}
}
