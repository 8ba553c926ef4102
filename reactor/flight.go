package reactor

import (
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// flight is the state of one slot of a lane.
//
//	       launch        send          PUBACK; at QoS 0, written
//	held ────────► ready ────► sent ─────────────────────────────────► ended
//	 │               │ ▲        │ │                                      ▲
//	 │               │ └────────┘ │ connection lost: again, as DUP       │
//	 │               │            │ PUBREC        committed      PUBCOMP │
//	 │               │            └───────► received ────► releasing ────┘
//	 │               │                        │  ▲
//	 │               │                        └──┘ connection lost: again, as DUP, and not
//	 │               │                             released before another PUBREC
//	 └───────────────┴────► returned (stop: handed back, never sent)
//
// A message that is refused, expired or impossible goes to ended from where it is. A
// broker that loses its session sends received and releasing back to ready, or to
// ended as failed (SessionLossPolicy).
type flight struct {
	job    driver.Job
	flying *flying
	sentAt time.Duration // of clock.local
	state  flightState
	// attempted tells that the message may have reached the broker: it can be sent
	// again, but not handed back.
	attempted bool
	// dup tells that the broker may know the slot from an earlier attempt.
	dup bool
	// unsure tells that a received message has to be sent again before it is released. The
	// broker said that it has it, over a connection that is gone; the broker may have been
	// killed since, and be back with what it had saved before that.
	unsure bool
	// releases is how often PUBREL may have been sent.
	releases int
}

type flightState uint8

const (
	free flightState = iota
	held
	ready
	sent
	// received: the broker has it and our journal may not say so yet. The slot is taken
	// there, and must not be released before the journal does.
	received
	// releasing: the journal says so; PUBREL is, or will be, on its way.
	releasing
	ended
)

// concluded reports that the message will not be sent again over this session.
func (s flightState) concluded() bool { return s >= received }

// flying is a batch on its way: claimed and not yet settled.
type flying struct {
	batch, round int64
	token        [16]byte
	qos          byte
	first        driver.Slot
	// reach is how far from the lane's first unsettled slot a message of this batch is sent:
	// what lies beyond was never sent, the recovery concludes.
	reach int
	jobs  int // as claimed
	// kept is how many jobs, from the front, stay claimed; less than jobs once the
	// others have been handed back.
	kept  int
	ended int // of those kept
	// front is how many of the jobs, from the first, are concluded.
	front    int
	failures []placedFailure // that the journal does not have

	marked     int  // what the journal says of front
	journalled int  // what the journal says of kept
	landed     bool // the settler has been told of news
	settled    bool // out of the journal
}

// placedFailure is the failure of the batch's i-th job.
type placedFailure struct {
	i int
	// late tells that the journal may say already that the broker has received it. It is
	// recorded with the end of the batch then, for there is no progress to tell it by before.
	late bool
	driver.Failure
}

// ripe reports whether a settlement up to a place says this failure.
func (p placedFailure) ripe(settled int, done bool) bool { return p.i < settled && (!p.late || done) }

// slot is that of the batch's i-th job.
func (f *flying) slot(i int) driver.Slot { return f.first.Plus(i) }

// place is the inverse of slot.
func (f *flying) place(s driver.Slot) int { return s.Minus(f.first) }

// done reports whether every job that stays claimed has ended.
func (f *flying) done() bool { return f.ended == f.kept }

// news reports whether there is something that the journal should say.
//
// At QoS 2 it must know what the broker has received before that is released. At
// QoS 0 and 1 there is nothing to say before the end.
func (f *flying) news() bool {
	return f.done() || f.kept < f.journalled || f.qos == 2 && f.front > f.marked
}

// urgent reports whether somebody waits for that: messages to be released, jobs to be
// tried again, or whoever would publish the batch again if we died.
func (f *flying) urgent() bool {
	return f.qos < 2 || f.front > f.marked || f.kept < f.journalled || len(f.failures) > 0
}
