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
	// due tells that the job is due (Launch). Before that, its message is neither sent for the
	// first time nor released.
	due bool
	// attempted tells that the message may have reached the broker. Then it can be sent again,
	// but its job can't be handed back.
	attempted bool
	// dup tells that the broker may know the slot from an earlier attempt.
	dup bool
	// unsure tells that a received message has to be sent again before it is released. The
	// broker received it over an earlier connection; the broker may have been killed since, and
	// have restarted with an older saved state. asking tells that it is queued for that, or was sent.
	unsure, asking bool
	// withheld tells that the broker does not pass the message on before its release: the message
	// was sent only over connections whose broker is known for that (Connection.Stages).
	withheld bool
	// early tells that the message was sent over this connection before its time, which has not
	// come yet (Machine.early).
	early bool
	// counted tells that Effects.Published includes the message.
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
	// received: the broker has the message, and the journal may not say so yet. The broker
	// keeps the slot, which must not be released before the journal says so.
	received
	// releasing: the journal says that the broker has the message. PUBREL is sent, or will be
	// when there is a connection.
	releasing
	ended
)

// span returns the message's span, or nil.
func (msg *message) span() driver.Span {
	if p := msg.job.Properties; p != nil && p.Trace != nil {
		return p.Trace.Span
	}
	return nil
}

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
	jobs      int // how many were claimed
	// kept is how many jobs, from the front, stay claimed. It is less than jobs once the others
	// have been handed back.
	kept  int
	ended int // how many of the kept jobs have ended
	// concluded is how many of the jobs, from the front, are concluded.
	concluded int
	failures  []failure // failures that the journal does not have yet

	// recorded holds the values of concluded and kept that are in the journal.
	recorded struct{ concluded, kept int }
	// announced tells that the caller was told of news, and has not asked for them yet.
	announced bool
	gone      bool // the batch has left the journal
	// ordered tells that jobs of the table wait for the end of the batch.
	ordered bool
}

// failure is the failure of the batch's job at a place.
type failure struct {
	place int
	// withEnd tells that the journal may already say that the broker has received the message.
	// Then no later progress covers this job, and the failure is recorded with the end of the
	// batch.
	withEnd bool
	driver.Failure
}

// ripe reports whether a settlement includes this failure.
func (f failure) ripe(concluded int, done bool) bool {
	return f.place < concluded && (!f.withEnd || done)
}

// Len is how many jobs were claimed with the batch.
func (b *Batch) Len() int { return b.jobs }

// slot returns the slot of the job at a place.
func (b *Batch) slot(place int) driver.Slot { return b.ring.plus(b.first, place) }

// place is the inverse of slot.
func (b *Batch) place(s driver.Slot) int { return b.ring.minus(s, b.first) }

// done reports whether every job that stays claimed has ended.
func (b *Batch) done() bool { return b.ended == b.kept }

// hasNews reports whether there is something that the journal should say.
//
// At QoS 2 the journal must know that the broker has received a message before the message is
// released. At QoS 0 and 1 there is nothing to say before the end.
func (b *Batch) hasNews() bool {
	return b.done() || b.kept < b.recorded.kept || b.qos == 2 && b.concluded > b.recorded.concluded
}

// urgent reports whether a delay of the news matters: messages wait to be released, jobs wait
// to be tried again, or for those before them, or the batch would be published again if we died.
func (b *Batch) urgent() bool {
	return b.qos < 2 || b.ordered || b.concluded > b.recorded.concluded || b.kept < b.recorded.kept || len(b.failures) > 0
}
