package reactor

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// laneRunner runs one leased lane: it connects the lane, recovers what its last owner left,
// keeps it connected, and shuts it down.
//
//	connect ──► confirm lease ──► recover ──► serve ──► stop: hand back, await acks,
//	   ▲                                        │       settle, disconnect, release
//	   └──────── connection lost ◄──────────────┘
//
// The order of the first three steps matters. When the broker accepts our connection it closes
// that of an earlier owner. When the lease is confirmed after that, nobody else can send. Only
// from then on is the journal complete.
type laneRunner struct {
	lane     *lane
	claimer  *claimer // nil: the lane is only recovered and released
	pad      *launchpad
	clientID string
	delivery Delivery
	onLoss   SessionLossPolicy
	stage    Staging

	broker   laneBroker
	journal  laneJournal
	leases   leaseHolder
	settler  laneSettler
	stages   stageList
	newAlarm func() (waker, error)
	clock    *clock
	log      *slog.Logger
	stats    *counters // written here, read by Stats alone
	budget   *budget
	// recovered gives back what the recovery has reserved of the budget; nil: nothing.
	recovered func()

	checkNow     wait.Signal // asks for a check of the journal, see doubtJournal
	readsJournal atomic.Bool // the journal is being read, or was read: the result may be outdated
	farAhead     atomic.Bool // see noteFarAhead
	failures     ratelog.Limiter
	takeovers    takeovers     // owned by the goroutine that connects, as is the next field
	refused      int           // failed attempts to connect
	at           string        // the broker of the last session; "": there was none
	moves        int           // how many times that has changed
	leave        func()        // has the lane settle what it has, and end; set by serve
	latest       driver.DBTime // the latest due time of the recovered jobs that are not due yet
}

// laneBroker is what a runner needs of the broker. All lanes of the instance share one.
type laneBroker interface {
	Connect(ctx context.Context, opts driver.ConnectOptions) (driver.Session, error)
	// checkIdentity makes sure, once, that the broker at an address tells clients apart by their
	// client ids. recheckIdentity does it again.
	checkIdentity(ctx context.Context, address string, qos byte) error
	recheckIdentity(ctx context.Context, address string, qos byte) error
	// hasAccepted notes that a connection was made. everAccepted reports whether one ever was.
	hasAccepted()
	everAccepted() bool
	// cannotMark logs that sessions cannot be marked.
	cannotMark(log *slog.Logger, why error)
	// passesOn says when the broker passes messages on, as was found over a session.
	passesOn(log *slog.Logger, passing driver.Passing, policy Staging, why error)
}

// laneJournal is what a runner needs of driver.Journal.
type laneJournal interface {
	Unsettled(ctx context.Context, lease driver.Lease, largePayload int) ([]driver.Unsettled, error)
	Recover(ctx context.Context, lease driver.Lease) ([]driver.Batch, error)
	Reopen(ctx context.Context, lease driver.Lease, round int64, mark string) error
	Mark(ctx context.Context, lease driver.Lease, mark string) error
	Settle(ctx context.Context, settlements []driver.Settlement) ([]driver.Receipt, error)
}

// leaseHolder is what a runner needs of the holder of the leases.
type leaseHolder interface {
	// confirm waits for a heartbeat that begins after the call, and reports whether it still
	// had the lane, with the same epoch.
	confirm(ctx context.Context, lease func() driver.Lease) bool
	// release gives a lane back whose journal is empty.
	release(ctx context.Context, lease driver.Lease)
	// beatSoon asks for a heartbeat.
	beatSoon()
}

// laneSettler is what a runner needs of the settler.
type laneSettler interface {
	// reopen has the journal begin another session, while no batch of the lane is being
	// settled.
	reopen(ctx context.Context, l settledLane, round int64, mark string) error
	// forget returns when the settler writes nothing about the lane any more.
	forget(l settledLane)
}

// stageList lists the places where jobs wait.
type stageList interface {
	enter(s stage)
	leave(s stage)
}

// A runner ends for one of these reasons; lanes.ended follows up on it.
var (
	// errLaneStopped: the runner was told to end (soft). All that it had is settled, and the
	// lane is released.
	errLaneStopped = errors.New("the lane was shut down")
	// errJournalChanged: the journal holds batches that had left it.
	errJournalChanged = errors.New("the lane's journal holds batches that were settled before")
	// driver.ErrLeaseLost: the lane has another owner, or its lease has changed. A *fatalError
	// ends the instance. For any other error, hard has ended.
)

// fatalError is an error that ends the instance: the very first connection to the broker
// failed, or the system could not make a timer.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

// run works until the lane is shut down (soft) or given up at once (hard), and returns the
// reason for its end.
func (r *laneRunner) run(soft, hard context.Context) error {
	r.stages.enter(r.lane)
	defer r.stages.leave(r.lane)
	if r.claimer != nil {
		r.stages.enter(r.claimer)
		defer r.stages.leave(r.claimer)
	}
	session, err := r.connect(soft, hard, false)
	if err != nil {
		return err
	}
	// ours ends when the lane is no longer ours: what is under way belongs to its next owner.
	ours, giveUp := context.WithCancelCause(hard)
	defer giveUp(errLaneStopped)
	r.lane.leaveBy(func() { giveUp(driver.ErrLeaseLost) })
	// The lane's next runner may belong to this instance. When it reads the journal, this
	// runner's news must not be on their way to the journal, nor be written later.
	defer r.settler.forget(r.lane)
	defer r.lane.drop()
	defer r.lane.leaveBudget()
	session, err = r.recover(ours, session)
	r.recoveryTakenIn()
	if err != nil {
		return err
	}
	if r.pad.wake, err = r.newAlarm(); err != nil {
		closeSession(session)
		return &fatalError{err}
	}
	defer r.pad.wake.Close()
	r.serve(soft, ours, giveUp, session)
	if ours.Err() == nil {
		r.leases.release(ours, r.lane.leaseNow())
	}
	giveUp(errLaneStopped)
	return context.Cause(ours)
}

// serve works a lane that is connected and recovered, until soft has ended and everything is
// settled, or the lane is not ours any more.
func (r *laneRunner) serve(soft, ours context.Context, giveUp context.CancelCauseFunc, session driver.Session) {
	connected, disconnect := context.WithCancel(ours)
	stopping := soft
	soft, r.leave = context.WithCancel(soft)
	defer r.leave()
	var group errgroup.Group
	group.Go(func() error {
		if err := r.keepConnected(connected, ours, stopping, session); err != nil {
			giveUp(err) // the lane will not be connected again
		}
		return nil
	})
	group.Go(func() error {
		if err := r.checkJournal(connected); err != nil {
			giveUp(err)
		}
		return nil
	})
	// Jobs that were recovered before their time are launched until the end.
	group.Go(func() error {
		r.pad.run(connected)
		return nil
	})
	if !r.noteFarAhead() && r.claimer != nil {
		if err := r.claimer.run(soft, ours); errors.Is(err, driver.ErrLeaseLost) {
			giveUp(err)
		}
	}
	if ours.Err() == nil { // else the next owner publishes what is in the journal
		r.lane.handBack()
		r.awaitIdle(ours)
	}
	disconnect()
	_ = group.Wait()
}

// connect opens a session and confirms the lease, and tries for as long as it takes. It returns
// a session, or the reason why there is none. The very first connection of the instance is
// different: if it fails, the broker is probably misconfigured, and the error ends the
// instance.
func (r *laneRunner) connect(soft, hard context.Context, fresh bool) (driver.Session, error) {
	var pause wait.Backoff
	for {
		session, err := r.broker.Connect(hard, driver.ConnectOptions{
			ClientID: r.clientID, QoS: r.delivery.QoS(), Fresh: fresh, Mark: r.lane.leaseNow().Mark, Acks: r.lane.acks,
			Broker: r.at, Unsettled: r.lane.exposed(), MayPublish: r.lane.leased,
		})
		if err != nil {
			r.refused++
		} else if err = r.broker.checkIdentity(hard, session.Limits().Broker, r.delivery.QoS()); err != nil {
			lookBack(hard, session)
			closeSession(session)
		}
		if err == nil {
			if !r.leases.confirm(hard, r.lane.leaseNow) {
				closeSession(session)
				return nil, driver.ErrLeaseLost
			}
			r.failures.OK(r.log, "connected to the broker again", "client_id", r.clientID)
			r.broker.hasAccepted()
			if at := session.Limits().Broker; at != r.at {
				r.at, r.moves = at, r.moves+1
			}
			return session, nil
		}
		switch {
		case hard.Err() != nil:
			return nil, context.Cause(hard)
		case soft.Err() != nil && r.lane.idle():
			return nil, errLaneStopped
		case !r.broker.everAccepted():
			return nil, &fatalError{err}
		}
		r.failures.Fail(r.log, slog.LevelWarn, "cannot connect to the broker; trying again", "client_id", r.clientID, "err", err)
		if !pause.Sleep(hard) {
			return nil, context.Cause(hard)
		}
	}
}

// awaitIdle waits until everything under way has been acknowledged and settled.
func (r *laneRunner) awaitIdle(ours context.Context) {
	for !r.lane.idle() {
		select {
		case <-ours.Done():
			return
		case <-r.lane.capacity:
		}
	}
}

// idle reports whether everything is settled.
func (r *laneRunner) idle() bool { return r.lane.idle() }

// resume goes on sending after the lease was in doubt.
func (r *laneRunner) resume() { r.lane.resume() }

// lease returns the lane's present lease.
func (r *laneRunner) lease() driver.Lease { return r.lane.leaseNow() }

// holdsFarAhead reports whether the lane does not claim because of what it has recovered.
func (r *laneRunner) holdsFarAhead() bool { return r.farAhead.Load() }
