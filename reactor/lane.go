package reactor

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"
	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// lane is one MQTT session at the broker, with the messages that are sent over it. The machine
// of package handoff decides about the messages; the lane owns the machine's mutex, the lease,
// the session and the clock, and carries out what the machine asks for.
//
// The mutex is held for as long as it takes to queue some messages, never while waiting for
// the network or the database.
type lane struct {
	clientID string
	delivery Delivery
	onLoss   SessionLossPolicy
	log      *slog.Logger
	stats    *counters
	progress *progress
	clock    *clock
	lead     *lead
	tracer   driver.Tracer // nil: no message has a span
	// leased reports whether our lease still holds now, by our own clock, so that we may send.
	leased func() bool
	// settle passes a batch with news to the settler, which writes them to the journal within a
	// time. It does not block.
	settle func(l *lane, b *handoff.Batch, within time.Duration)
	// hurry makes the settler write at once what it was passed.
	hurry func()
	// capacity is set when slots became free or a session was attached.
	capacity wait.Signal
	// recorded is set when the journal says more than before.
	recorded wait.Signal

	mu         sync.Mutex
	machine    *handoff.Machine // guarded by mu
	lease      driver.Lease     // guarded by mu
	session    driver.Session   // guarded by mu; nil while there is none
	unreleased []driver.Slot    // guarded by mu: slots that the session did not release because it had ended
	end        func()           // guarded by mu: ends the lane's runner; nil before it runs
	overQuota  ratelog.Limiter
	tooEarly   ratelog.Limiter
	// claiming is the token of the claim that is under way; doubted stops further claims
	// (audit.go).
	claiming [16]byte // guarded by mu
	doubted  bool     // guarded by mu
	// What the statistics were told last of the lane's connection.
	unacknowledged, window int // guarded by mu
	// budget is told of the payloads that the lane holds, and counted is what it was told last. It
	// is nil for a lane that counts no more (leaveBudget).
	budget  *budget                    // guarded by mu
	counted struct{ small, large int } // guarded by mu
}

func newMachine(cfg Config) *handoff.Machine {
	return handoff.New(handoff.Config{QoS: cfg.Delivery.QoS(), FailLost: cfg.OnSessionLoss == Fail, MaxLateness: cfg.MaxLateness})
}

// now returns the present time in the machine's terms.
func (l *lane) now() handoff.Now {
	local := l.clock.local()
	return handoff.Now{Local: local, Database: l.clock.at(local), Leased: l.leased()}
}

// carryOut does what the machine asks for. The caller holds mu.
func (l *lane) carryOut(e *handoff.Effects) {
	l.checkTimes(e.Due)
	if len(e.Release) > 0 && l.session.Release(e.Release) != nil {
		l.unreleased = append(l.unreleased, e.Release...) // the session has ended, and no PUBREL was sent
	}
	if len(e.Publish) > 0 {
		// An error means that the session has ended: detach queues the messages again.
		_ = l.session.Publish(e.Publish)
		l.traceSends(e.Publish)
	}
	for _, n := range e.News {
		l.settle(l, n.Batch, n.Within)
	}
	if e.Hurry {
		l.hurry()
	}
	if e.Capacity {
		l.capacity.Set()
	}
	if e.Recorded {
		l.recorded.Set()
	}
	if e.Wake > 0 {
		time.AfterFunc(e.Wake+time.Duration(wait.RandomShare()*0.1*float64(e.Wake)), l.resume)
	}
	if e.NotOurs && l.end != nil {
		l.end()
	}
	l.account(e)
	l.weigh()
}

// checkTimes counts messages whose time has not come, on the database's clock as it is known now, when
// they are handed to the session. There are none: it checks the promise itself, with the clock read
// anew, whatever has decided that they are due. Where the database's clock was set back meanwhile, it
// counts what was due by the clock before.
func (l *lane) checkTimes(due []driver.DBTime) {
	if len(due) == 0 {
		return
	}
	now := l.clock.Now()
	for _, at := range due {
		if at > now {
			l.stats.early.Add(1)
			l.tooEarly.Fail(l.log, slog.LevelError, "a message is sent before its time: that is a defect, unless the database's clock was set back just now", "by", at.Sub(now))
		}
	}
}

// account adds an event's effects to the statistics and the log. The caller holds mu.
func (l *lane) account(e *handoff.Effects) {
	c := l.stats
	c.inFlight.Add(int64(e.InFlight))
	unacknowledged := l.machine.Unacknowledged()
	c.unacknowledged.Add(int64(unacknowledged - l.unacknowledged))
	l.unacknowledged = unacknowledged
	c.published.Add(int64(e.Published))
	c.refused.Add(int64(e.Refused))
	c.throttled.Add(int64(e.Throttled))
	c.returned.Add(int64(e.Returned))
	c.outcomesUnknown.Add(int64(e.OutcomesUnknown))
	c.ack.observe(e.Took...)
	if len(e.Took) > 0 {
		l.lead.acknowledged(slices.Max(e.Took))
	}
	c.accepted.observe(e.Late...)
	if e.Published > 0 {
		l.progress.accepted.touch()
	}
	l.endSpans(e.Spans)
	if e.OverQuota != "" || e.Wake > 0 {
		l.overQuota.Fail(l.log, slog.LevelWarn, "the broker is over quota; sending slower", "client_id", l.clientID, "reason", e.OverQuota)
	}
	if e.GivenUpCause != nil {
		l.log.Warn("the broker ends the connection whenever it is sent this message; giving it up", "job", e.GivenUp, "err", e.GivenUpCause)
	}
}

// room reports whether a claim of n jobs can be made: there are free slots, and a session.
// first is the claim's first slot, reach is that of its batch (handoff.Machine.Room).
func (l *lane) room(n int) (lease driver.Lease, first driver.Slot, reach int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first, reach, ok = l.machine.Room(n)
	return l.lease, first, reach, ok && !l.doubted && l.leased()
}

// admit takes a claimed batch in.
func (l *lane) admit(claimed driver.Batch) *handoff.Batch {
	l.beginSpans(claimed)
	l.mu.Lock()
	defer l.mu.Unlock()
	b, e := l.machine.Admit(l.now(), claimed)
	l.carryOut(e)
	return b
}

// launch sends the batch's jobs from … to-1: their time has come.
func (l *lane) launch(b *handoff.Batch, from, to int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.carryOut(l.machine.Launch(l.now(), b, from, to))
}

// resume goes on sending after the lease was in doubt, or after a rest.
func (l *lane) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.carryOut(l.machine.Resume(l.now()))
}

// acks processes the broker's answers; the session calls it.
func (l *lane) acks(acks []driver.Ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.carryOut(l.machine.Acks(l.now(), acks))
}

// attach begins to send over a session.
func (l *lane) attach(s driver.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session = s
	l.noteWindow(s.Limits().InFlight)
	l.carryOut(l.machine.Connect(l.now(), handoff.Connection{Limits: s.Limits(), Check: s.Check}))
}

// noteWindow tells the statistics how many messages the broker takes unacknowledged. The caller holds mu.
func (l *lane) noteWindow(window int) {
	l.stats.window.Add(int64(window - l.window))
	l.window = window
}

// stage allows messages to be sent over a session before their time. withholds tells that its broker
// was found to pass them on when they are released.
func (l *lane) stage(s driver.Session, withholds bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == s {
		l.carryOut(l.machine.Stage(l.now(), withholds))
	}
}

// detach ends the sending over a session, for a reason. It reports whether the broker had
// answered anything over it.
func (l *lane) detach(why error) (fruitful bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	unreleased := l.unreleased
	if l.session != nil {
		unreleased = append(unreleased, l.session.Unreleased()...)
	}
	l.session, l.unreleased = nil, nil
	l.noteWindow(0)
	l.capacity.Set() // it takes part no more
	fruitful = l.machine.Fruitful()
	l.carryOut(l.machine.Disconnect(why, unreleased))
	return fruitful
}

// recovered takes in what an earlier owner of the lane left in the journal, and returns the
// jobs whose time has not come. lost tells that the broker has no session to resume.
func (l *lane) recovered(batches []driver.Batch, lost bool) []handoff.Early {
	for _, b := range batches {
		l.beginSpans(b)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	early, e := l.machine.Recover(l.now(), batches, lost)
	l.carryOut(e)
	return early
}

// lose deals with a broker that has lost our session. The journal has been told (round).
func (l *lane) lose(round int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.carryOut(l.machine.SessionLost(round))
}

// settlement describes the batch's present state for the journal.
func (l *lane) settlement(b *handoff.Batch) driver.Settlement {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.machine.Settlement(b)
	s.Lease = l.lease
	return s
}

// settled processes a settlement that was committed. held tells whether the lane was still
// ours.
func (l *lane) settled(s driver.Settlement, b *handoff.Batch, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.carryOut(l.machine.Settled(l.now(), b, s, held))
}

// handBack returns to the table what was claimed and never sent.
func (l *lane) handBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.carryOut(l.machine.HandBack())
}

// drop forgets what is left: the journal has it, for the lane's next owner.
func (l *lane) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.carryOut(l.machine.Drop())
}

// idle reports whether everything is settled.
func (l *lane) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machine.Idle()
}

// exposed reports whether a batch depends on the session state that the broker keeps for our
// slots.
func (l *lane) exposed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machine.Exposed()
}

// hasNews reports whether there is something that the journal does not say yet.
func (l *lane) hasNews() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machine.HasNews()
}

// oldestDue implements stage, for jobs that are claimed and not yet accepted by the broker.
func (l *lane) oldestDue() driver.DBTime {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.machine.OldestDue(); ok {
		return at
	}
	return nothingDue
}

// leaveBy sets the function that ends the lane's runner.
func (l *lane) leaveBy(end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = end
}

// relet replaces the lease after we have raised its epoch ourselves.
func (l *lane) relet(lease driver.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lease.Epoch = lease.Epoch
}

// leaseNow returns the present lease.
func (l *lane) leaseNow() driver.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lease
}

// marked notes the mark of the session that the journal is about.
func (l *lane) marked(mark string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lease.Mark = mark
}
