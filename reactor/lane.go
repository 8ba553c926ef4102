package reactor

import (
	"cmp"
	"log/slog"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/reactor/driver"
)

// lane is the state of one way to the broker: which messages are claimed for it,
// which are on the wire, which have ended. It outlives the network connections
// (sessions) it is sent over; what they lose is sent again.
//
// Its slots form a ring, taken at the head by claims and given back at the tail, a
// batch at a time, when a batch is settled. The number of slots is what bounds the
// memory of a lane, and what makes a broker that is slow, or gone, stop the claims.
//
// The mutex guards everything below it. It is held for as long as it takes to queue
// some messages, never while waiting for the network or the database.
type lane struct {
	clientID string
	delivery Delivery
	log      *slog.Logger
	stats    *counters
	progress *progress
	// leased reports whether we may send right now, by our own clock.
	leased func() bool
	clock  *clock
	// settle takes a batch that has news for the journal, to be told within a while.
	settle func(l *lane, f *flying, within time.Duration)
	// hurry has what was taken told at once.
	hurry func()
	// onLoss is for messages whose outcome is unknown because the broker lost them.
	onLoss SessionLossPolicy
	// capacity is set when slots became free or a session was attached.
	capacity signal

	mu         sync.Mutex
	lease      driver.Lease
	session    driver.Session // nil while there is none
	limits     driver.Limits
	slots      [driver.LaneSlots]flight
	head       driver.Slot      // the next to be taken
	batches    []*flying        // oldest first; their slots are consecutive on the ring
	queue      []driver.Slot    // ready to be sent, in order
	bytes      int              // of the payloads that have not ended
	wire       int              // slots that are taken at the broker
	out        []driver.Message // reused by pump
	beyond     []driver.Slot    // reused by pump for what lies beyond its reach
	blocked    bool             // there was some
	freed      []driver.Slot    // reused for releases
	again      []driver.Slot    // reused for what the broker wants again
	answeredAt time.Duration    // when the answers came that are being taken, of clock.local
	took       []time.Duration  // reused for how long the accepted ones took
	late       []time.Duration  // reused for how late they were
	pace       pace
	suspicion  suspicion
	overQuota  ratelog.Limiter
	closing    bool   // nothing more is taken
	abandon    func() // ends the lane's runner; nil before it runs
	// claiming is the token of the claim that is under way; doubted keeps others from
	// being made (audit.go).
	claiming [16]byte
	doubted  bool
}

// maxLaneBytes bounds the payloads of a lane, give or take a claim's.
const maxLaneBytes = 32 << 20

func (l *lane) at(s driver.Slot) *flight { return &l.slots[s-1] }

// freeSlots is how many more jobs can be taken. The caller holds mu.
func (l *lane) freeSlots() int {
	if len(l.batches) == 0 {
		return driver.LaneSlots
	}
	used := (int(l.head) - int(l.batches[0].first) + driver.LaneSlots) % driver.LaneSlots
	if used == 0 {
		return 0
	}
	return driver.LaneSlots - used
}

// room reports whether a claim of n jobs can be made: there are slots, and somebody
// to send to. first is where its slots begin, reach how far they are used.
func (l *lane) room(n int) (lease driver.Lease, first driver.Slot, reach int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lease, l.head, l.reach(), !l.closing && !l.doubted && l.session != nil && l.leased() &&
		l.freeSlots() >= n && l.bytes < maxLaneBytes
}

// admit takes a claimed batch in.
func (l *lane) admit(b driver.Batch) *flying {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.take(b)
}

func (l *lane) take(b driver.Batch) *flying {
	f := &flying{
		batch: b.ID, round: b.Round, token: b.Token, qos: b.QoS, first: b.FirstSlot, reach: cmp.Or(b.Reach, driver.LaneSlots),
		jobs: len(b.Jobs), kept: len(b.Jobs), journalled: len(b.Jobs), marked: b.Settled,
	}
	l.batches = append(l.batches, f)
	for i, job := range b.Jobs {
		*l.at(f.slot(i)) = flight{job: job, flying: f, state: held}
		l.bytes += len(job.Payload)
	}
	l.head = f.slot(f.jobs)
	l.stats.inFlight.Add(int64(f.jobs))
	return f
}

// launch sends the batch's jobs from … to-1: their time has come.
func (l *lane) launch(f *flying, from, to int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.settled {
		return
	}
	for i := from; i < to && i < f.kept; i++ {
		s := f.slot(i)
		switch fl := l.at(s); fl.state {
		case held:
			fl.state = ready
			l.queue = append(l.queue, s)
		case received: // by an earlier owner, and marked
			l.release(s)
		}
	}
	l.pump()
}

// forget lets go of a payload.
func (l *lane) forget(fl *flight) {
	l.bytes -= len(fl.job.Payload)
	fl.job = driver.Job{ID: fl.job.ID}
}

// resume sends again after the lease was in doubt.
func (l *lane) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pump()
	l.capacity.set()
}

// handBack gives up what was claimed and never sent: nobody but the table knows of
// it. Jobs are sent in the order of their batch, so it is the end of each batch.
func (l *lane) handBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = true
	for _, f := range l.batches {
		kept := f.kept
		for kept > 0 {
			fl := l.at(f.slot(kept - 1))
			if fl.attempted || fl.state == ended {
				break
			}
			fl.state = free
			l.forget(fl)
			kept--
		}
		if kept < f.kept {
			l.stats.returned.Add(int64(f.kept - kept))
			f.kept = kept
			l.report(f)
		}
	}
	queue := l.queue[:0]
	for _, s := range l.queue {
		if l.at(s).state == ready {
			queue = append(queue, s)
		}
	}
	l.queue = queue
}

// drop gives up what is left: it is in the journal, for the lane's next owner.
func (l *lane) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = true
	for _, f := range l.batches {
		l.stats.inFlight.Add(-int64(f.jobs))
	}
	l.batches, l.queue = nil, nil
}

// idle reports whether nothing is left to be settled.
func (l *lane) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.batches) == 0
}

// leaveBy says how to end the lane's runner.
func (l *lane) leaveBy(abandon func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.abandon = abandon
}

// relet replaces the lease after its epoch was raised by ourselves.
func (l *lane) relet(lease driver.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lease.Epoch = lease.Epoch
}

// leaseNow is the lease as it stands.
func (l *lane) leaseNow() driver.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lease
}

// marked notes the mark of the session that the journal speaks of.
func (l *lane) marked(mark string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lease.Mark = mark
}

// leastReach keeps a narrow window from making what is due wait for what is not: the jobs
// of a claim, which fall due within milliseconds, may be in between.
const leastReach = 128

// reach is how far from the first unsettled slot messages are sent. At QoS 2 what the
// broker has received is marked as soon as can be. At QoS 1 a batch is settled when all of
// it has ended, and another goes out meanwhile. The caller holds mu.
func (l *lane) reach() int {
	if l.delivery.QoS() == 2 {
		return min(max(l.limits.InFlight, leastReach), driver.LaneSlots)
	}
	return min(max(2*l.limits.InFlight, 2*maxClaim), driver.LaneSlots)
}

// base is the lane's first slot of which the journal does not say that the broker has it.
// The caller holds mu.
func (l *lane) base() driver.Slot {
	for _, f := range l.batches {
		if !f.settled && f.marked < f.journalled {
			return f.slot(f.marked)
		}
	}
	return l.head
}
