package handoff

import (
	"cmp"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Config is constant for a lane.
type Config struct {
	// QoS of the claims that are made for the lane. Batches of an earlier owner may have
	// another one.
	QoS byte
	// FailLost tells what happens to a message whose outcome is unknown because the broker has
	// lost its session: it fails if FailLost is set, and is sent again otherwise.
	FailLost bool
	// MaxLateness is how late a message may be sent for the first time; a later one is missed. 0:
	// there is no limit.
	MaxLateness time.Duration
	// Slots is the size of the ring. 0 means driver.LaneSlots. A lane that others may recover
	// must use 0.
	Slots int
}

// Now is the present time, as the caller measures it.
type Now struct {
	// Local is a monotonic instant. Only differences count.
	Local time.Duration
	// Database is the time on the database's clock.
	Database driver.DBTime
	// Leased tells whether the lane's lease certainly holds. Nothing is published without it, and with
	// Limits.OtherBrokers nothing is released.
	Leased bool
}

// Machine is the state of one lane. It outlives the lane's connections.
//
// The slots form a ring. Claims take them at the head; a batch that has left the journal frees
// its slots at the tail. The number of slots bounds the memory of a lane, and stops the claims
// when the broker is slow or away.
type Machine struct {
	cfg        Config
	ring       ring
	messages   []message // by slot - 1
	head       driver.Slot
	batches    []*Batch      // oldest first; their slots are consecutive on the ring
	queue      []driver.Slot // to be sent, in order: their time has come
	staging    []driver.Slot // to be sent before their time, in order; some need not be sent any more
	bytes      int           // size of the payloads of messages that have not ended
	largeBytes int           // size of those of them that are large (LargePayload)
	connection Connection
	connected  bool
	early      int  // of those in flight, messages whose time has not come
	earlyBytes int  // size of their payloads
	inFlight   int  // slots that count against the broker's limit for this connection
	blocked    bool // messages in the queue are beyond the reach of their batch
	unreleased bool // messages wait for the lease, to be released
	closing    bool // nothing more is admitted
	pace       pace
	poison     poison
	now        Now // of the last event that told
	effects    Effects
	resend     []driver.Slot // reused by Acks
	beyond     []driver.Slot // reused by send
	doubtful   driver.Slot   // of send: the first slot in doubt
}

// Connection is a connection that the lane may send over, once the lease was confirmed.
type Connection struct {
	Limits driver.Limits
	// Check returns why a message can never be sent over the connection, or nil. It does no
	// I/O.
	Check func(driver.Message) error
	// Stages tells that QoS 2 messages are to be sent before their time, as the broker passes them
	// on when they are released. Withholds tells that this was found out, and not only claimed.
	Stages, Withholds bool
}

// MaxBytes bounds the size of the payloads of a lane. The last claim may exceed it.
const MaxBytes = 32 << 20

// New returns a lane without batches and without a connection.
func New(cfg Config) *Machine {
	cfg.Slots = cmp.Or(cfg.Slots, driver.LaneSlots)
	return &Machine{cfg: cfg, ring: ring(cfg.Slots), messages: make([]message, cfg.Slots), head: 1}
}

// Effects tells the caller what to do after an event, in the order of the fields. The slices
// belong to the machine, and are valid until its next event.
type Effects struct {
	// Release is to be given to Session.Release, Publish to Session.Publish. If one of them
	// reports that the session has ended, the caller has to call Disconnect next.
	Release []driver.Slot
	Publish []driver.Message
	// News are batches with something that the journal should record. See Machine.Settlement.
	News []News
	// Hurry asks to settle at once the news that have been waiting for more.
	Hurry bool
	// Capacity tells that there may be room for a claim.
	Capacity bool
	// Recorded tells that the journal says more than before.
	Recorded bool
	// Wake asks the caller to call Resume after this time, or later; 0: not at all.
	Wake time.Duration
	// NotOurs tells that the lane has another owner.
	NotOurs bool

	// The fields below are for statistics, the log and traces.

	// Due are the due times of those messages of Release and Publish that are handed over because
	// their time has come, and not to be staged.
	Due []driver.DBTime

	// InFlight is the change of the number of jobs that are claimed and have not left the
	// journal.
	InFlight int
	// The broker accepted the Published messages, and refused the Refused ones. The Throttled
	// ones were over its quota. Returned jobs go back to the table. OutcomesUnknown counts
	// messages whose outcome is unknown, as the broker has lost its session.
	Published, Refused, Throttled, Returned, OutcomesUnknown int
	// Took is, for each published message, the time from PUBLISH to the answer, and Late is how
	// late the message was at the answer.
	Took, Late []time.Duration
	// Spans are those of messages whose outcome is known now.
	Spans []SpanEnd
	// GivenUp is the job of a message that was given up because the broker ends the connection
	// whenever it is sent, for GivenUpCause; nil: no message was given up.
	GivenUp      int64
	GivenUpCause error
	// OverQuota is the broker's reason when it begins to be over quota; "": it did not begin
	// now.
	OverQuota string
}

// News is a batch with something that the journal should record within some time.
type News struct {
	Batch  *Batch
	Within time.Duration
}

// SpanEnd is the outcome of a message that has a span.
type SpanEnd struct {
	Span    driver.Span
	Failed  bool
	Failure driver.Failure // if it has failed
}

// begin clears the effects of the event before.
func (m *Machine) begin() *Effects {
	e := &m.effects
	clear(e.Publish) // so that the payloads can be freed
	clear(e.News)
	clear(e.Spans)
	m.effects = Effects{
		Due: e.Due[:0], Release: e.Release[:0], Publish: e.Publish[:0], News: e.News[:0], Took: e.Took[:0], Late: e.Late[:0], Spans: e.Spans[:0],
	}
	return &m.effects
}

// beginAt is begin for an event that tells the time.
func (m *Machine) beginAt(now Now) *Effects {
	m.now = now
	return m.begin()
}

// Room returns the slots for a claim of n jobs: the first one, and how far beyond the
// first slot in doubt the batch's messages will be sent (Batch.Reach). ok tells that there is
// room, and a connection.
func (m *Machine) Room(n int) (first driver.Slot, reach int, ok bool) {
	return m.head, m.reach(), !m.closing && m.connected && m.freeSlots() >= n && m.bytes < MaxBytes
}

func (m *Machine) freeSlots() int {
	if len(m.batches) == 0 {
		return int(m.ring)
	}
	used := m.ring.minus(m.head, m.batches[0].first)
	if used == 0 {
		return 0
	}
	return int(m.ring) - used
}

// Admit adds the batch that a claim for the lane has committed, in the slots that Room named.
// Nothing is sent before Launch, unless it can be staged.
func (m *Machine) Admit(now Now, claimed driver.Batch) (*Batch, *Effects) {
	m.beginAt(now)
	b := m.admit(claimed)
	m.stage(now, b)
	m.send(now)
	return b, &m.effects
}

func (m *Machine) admit(claimed driver.Batch) *Batch {
	n := len(claimed.Jobs)
	b := &Batch{
		id: claimed.ID, round: claimed.Round, token: claimed.Token, qos: claimed.QoS, ring: m.ring,
		first: claimed.FirstSlot, reach: cmp.Or(claimed.Reach, int(m.ring)), jobs: n, kept: n,
		ordered: claimed.Ordered,
	}
	b.recorded.kept, b.recorded.concluded = n, claimed.Concluded
	m.batches = append(m.batches, b)
	for i, job := range claimed.Jobs {
		*m.at(b.slot(i)) = message{job: job, batch: b, state: held}
		m.weigh(len(job.Payload), 1)
	}
	m.head = b.slot(n)
	m.effects.InFlight += n
	return b
}

// Launch sends the batch's jobs from … to-1: their time has come.
func (m *Machine) Launch(now Now, b *Batch, from, to int) *Effects {
	m.beginAt(now)
	if b.gone {
		return &m.effects
	}
	for i := from; i < to && i < b.kept; i++ {
		s := b.slot(i)
		msg := m.at(s)
		m.notEarly(msg)
		msg.due = true
		switch {
		case msg.state == held:
			msg.state = queued
			m.queue = append(m.queue, s)
		case msg.state == received && msg.unsure && !msg.asking:
			if m.connected { // else Connect asks
				m.ask(s)
			}
		case msg.state == received && i >= b.recorded.concluded:
			m.effects.Hurry = true
		}
		m.releaseIfReady(s) // where it was staged, or recovered before its time
	}
	m.send(now)
	return &m.effects
}

// Resume sends again, after the lease was in doubt or the pace asked for a rest.
func (m *Machine) Resume(now Now) *Effects {
	m.beginAt(now)
	if m.unreleased {
		m.releaseAll()
	}
	m.send(now)
	m.effects.Capacity = true
	return &m.effects
}

// HandBack returns the jobs to the table that were claimed and never sent, so that the broker
// can't know them. Jobs are sent in the order of their batch, so these are the last ones of
// each batch. No batch is admitted from here on.
func (m *Machine) HandBack() *Effects {
	m.begin()
	m.closing = true
	for _, b := range m.batches {
		kept := b.kept
		for kept > 0 {
			msg := m.at(b.slot(kept - 1))
			if msg.attempted || msg.state == ended {
				break
			}
			msg.state = free
			m.forget(msg)
			kept--
		}
		if kept < b.kept {
			m.effects.Returned += b.kept - kept
			b.kept = kept
			m.announce(b)
		}
	}
	queue := m.queue[:0]
	for _, s := range m.queue {
		if msg := m.at(s); msg.state == queued || msg.state == received && msg.asking {
			queue = append(queue, s)
		}
	}
	m.queue = queue
	return &m.effects
}

// Drop forgets all batches. The journal has them, for the lane's next owner.
func (m *Machine) Drop() *Effects {
	m.begin()
	m.closing = true
	for _, b := range m.batches {
		m.effects.InFlight -= b.jobs
	}
	m.batches, m.queue, m.staging = nil, nil, nil
	return &m.effects
}

// Idle reports whether no batch is left.
func (m *Machine) Idle() bool { return len(m.batches) == 0 }

// Exposed reports whether a batch depends on the state that the broker keeps for its slots.
func (m *Machine) Exposed() bool {
	for _, b := range m.batches {
		if b.qos == 2 && !b.gone {
			return true
		}
	}
	return false
}

// Unacknowledged is how many messages count against the broker's limit for the connection.
func (m *Machine) Unacknowledged() int { return m.inFlight }

// HasNews reports whether there is something that the journal does not say yet.
func (m *Machine) HasNews() bool {
	for _, b := range m.batches {
		if !b.gone && b.hasNews() {
			return true
		}
	}
	return false
}

// Knows reports whether the machine has the batch with a token, and that batch has not left the
// journal.
func (m *Machine) Knows(token [16]byte) bool {
	for _, b := range m.batches {
		if b.token == token && !b.gone {
			return true
		}
	}
	return false
}

// OldestDue is the earliest due time of the jobs that the broker has not accepted.
func (m *Machine) OldestDue() (at driver.DBTime, ok bool) {
	for _, b := range m.batches {
		for i := range b.kept {
			msg := m.at(b.slot(i))
			waits := msg.state >= held && msg.state <= sent || msg.state != ended && msg.due && !msg.counted
			if waits && msg.job.Topic != "" && (!ok || msg.job.FireAt < at) {
				at, ok = msg.job.FireAt, true
			}
		}
	}
	return at, ok
}

func (m *Machine) at(s driver.Slot) *message { return &m.messages[s-1] }

// forget drops a payload, so that it can be freed.
func (m *Machine) forget(msg *message) {
	m.weigh(len(msg.job.Payload), -1)
	msg.job = driver.Job{ID: msg.job.ID}
}
