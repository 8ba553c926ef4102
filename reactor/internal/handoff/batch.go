package handoff

import (
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// ring is the arithmetic of slots, 1 … ring.
type ring int

// plus returns the slot n places after s.
func (r ring) plus(s driver.Slot, n int) driver.Slot {
	return driver.Slot((int(s)-1+n)%int(r)) + 1
}

// minus returns how many places s lies after t.
func (r ring) minus(s, t driver.Slot) int { return (int(s) - int(t) + int(r)) % int(r) }

// message is the state of one slot.
type message struct {
	job    driver.Job
	batch  *Batch
	sentAt time.Duration // local
	state  state
	// due tells that the time of the job has come (Launch). Nothing is sent for the first time, or
	// released, before that.
	due bool
	// attempted tells that the message may have reached the broker: it can be sent again,
	// but not handed back.
	attempted bool
	// dup tells that the broker may know the slot from an earlier attempt.
	dup bool
	// unsure tells that a received message has to be sent again before it is released. The
	// broker received it over a connection that is gone; it may have been killed since, and
	// be back with what it had saved before that. asking: it is queued for that, or was sent.
	unsure, asking bool
	// withheld tells that the broker does not pass the message on before its release: it was sent
	// over connections of such brokers only.
	withheld bool
	// counted tells that Effects.Published has the message.
	counted bool
	// releases is how often PUBREL may have been sent.
	releases int
}

type state uint8

const (
	free state = iota
	held
	queued
	sent
	// received: the broker has the message, and the journal may not say so yet. The slot is
	// taken there, and must not be released before the journal says so.
	received
	// releasing: the journal says so. PUBREL is sent, or will be when there is a connection.
	releasing
	ended
)

// stageable reports whether a message may be sent before its time, to be released then. One
// that may expire is not: to release it is to have it published, however late that is.
func (msg *message) stageable(now Now) bool {
	ahead := msg.job.FireAt.Sub(now.Database)
	return !msg.due && ahead > 0 && ahead <= maxStaged && !msg.job.Expires && msg.job.Topic != "" && len(msg.job.Payload) <= maxStagedBytes &&
		(msg.state == held || msg.state == received && msg.unsure && !msg.asking)
}

// concluded reports that PUBLISH will not be sent again over this connection.
func (s state) concluded() bool { return s >= received }

// Batch is what one claim took, from its admission until it is gone from the journal.
type Batch struct {
	id, round int64
	token     [16]byte
	qos       byte
	ring      ring
	first     driver.Slot
	reach     int // see driver.Batch.Reach
	jobs      int // as claimed
	// kept is how many jobs, from the front, stay claimed. It is less than jobs once the others
	// have been handed back.
	kept  int
	ended int // of those kept
	// concluded is how many of the jobs, from the front, are concluded.
	concluded int
	failures  []failure // that the journal does not have

	// recorded is what the journal says.
	recorded struct{ concluded, kept int }
	// announced tells that the caller has been told of news, and has not asked for them.
	announced bool
	gone      bool // from the journal
}

// failure is that of the batch's job at a place.
type failure struct {
	place int
	// withEnd tells that the journal may say already that the broker has received the
	// message: there is no progress that could carry the failure. It is recorded with the end
	// of the batch.
	withEnd bool
	driver.Failure
}

// ripe reports whether a settlement says this failure.
func (f failure) ripe(concluded int, done bool) bool {
	return f.place < concluded && (!f.withEnd || done)
}

// Len is how many jobs were claimed with the batch.
func (b *Batch) Len() int { return b.jobs }

// slot is that of the job at a place.
func (b *Batch) slot(place int) driver.Slot { return b.ring.plus(b.first, place) }

// place is the inverse of slot.
func (b *Batch) place(s driver.Slot) int { return b.ring.minus(s, b.first) }

// done reports whether every job that stays claimed has ended.
func (b *Batch) done() bool { return b.ended == b.kept }

// hasNews reports whether there is something that the journal should say.
//
// At QoS 2 it must know what the broker has received before that is released. At QoS 0 and
// 1 there is nothing to say before the end.
func (b *Batch) hasNews() bool {
	return b.done() || b.kept < b.recorded.kept || b.qos == 2 && b.concluded > b.recorded.concluded
}

// urgent reports whether somebody waits for that: messages to be released, jobs to be tried
// again, or whoever would publish the batch again if we died.
func (b *Batch) urgent() bool {
	return b.qos < 2 || b.concluded > b.recorded.concluded || b.kept < b.recorded.kept || len(b.failures) > 0
}
