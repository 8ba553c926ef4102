package reactor

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/wait"
)

// laneRunner works one leased lane: connects it, recovers what its last owner left,
// keeps it connected, and shuts it down.
//
//	connect ──► confirm lease ──► recover ──► serve ──► stop: hand back, await acks,
//	   ▲                                        │       settle, disconnect, release
//	   └──────── connection lost ◄──────────────┘
//
// The order at the top matters. Once the broker has accepted our connection it has
// closed that of an owner before us; once the lease is confirmed after that, we are
// the only one to send; and only then is the journal complete.
type laneRunner struct {
	lane     *lane
	claimer  *claimer // nil: the lane is only recovered and released
	pad      *launchpad
	clientID string
	delivery Delivery
	onLoss   SessionLossPolicy

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

	checkNow     wait.Signal // has the journal checked, see doubtJournal
	readsJournal atomic.Bool // the journal is being read, or was: what it says may be outdated
	farAhead     atomic.Bool // see noteFarAhead
	failures     ratelog.Limiter
	takeovers    takeovers     // of the goroutine that connects, as is the next
	refused      int           // connections that could not be made
	latest       driver.DBTime // when the last of the recovered jobs is due that are not yet
}

// laneBroker is what a runner needs of the broker: one for all lanes of the instance.
type laneBroker interface {
	Connect(ctx context.Context, opts driver.ConnectOptions) (driver.Session, error)
	// checkIdentity makes sure that the broker knows clients by their client ids: once, or,
	// recheckIdentity, again.
	checkIdentity(ctx context.Context, qos byte) error
	recheckIdentity(ctx context.Context, qos byte) error
	// hasAccepted notes that a connection was made, everAccepted asks whether one ever was.
	hasAccepted()
	everAccepted() bool
	// cannotMark says that sessions cannot be marked.
	cannotMark(log *slog.Logger, why error)
}

// laneJournal is what it needs of driver.Journal.
type laneJournal interface {
	Unsettled(ctx context.Context, lease driver.Lease, largePayload int) ([]driver.Unsettled, error)
	Recover(ctx context.Context, lease driver.Lease) ([]driver.Batch, error)
	Reopen(ctx context.Context, lease driver.Lease, round int64, mark string) error
	Mark(ctx context.Context, lease driver.Lease, mark string) error
	Settle(ctx context.Context, settlements []driver.Settlement) ([]driver.Receipt, error)
}

// leaseHolder is what it needs of whoever holds the leases.
type leaseHolder interface {
	// confirm waits for a heartbeat that begins after the call, and reports whether it still
	// had the lane, with the same epoch.
	confirm(ctx context.Context, lease func() driver.Lease) bool
	// release gives a lane back whose journal is empty.
	release(ctx context.Context, lease driver.Lease)
	// beatSoon asks for a heartbeat.
	beatSoon()
}

// laneSettler is what it needs of the settler.
type laneSettler interface {
	// reopen begins another session while batches of the lane are being settled.
	reopen(ctx context.Context, l settledLane, round int64, mark string) error
	// forget returns when nothing is said of the lane any more.
	forget(l settledLane)
}

// stageList is where the places are listed in which jobs wait.
type stageList interface {
	enter(s stage)
	leave(s stage)
}

// A runner ends for one of these reasons; lanes.ended follows up on it.
var (
	// errLaneStopped is why it ends when it was told to (soft): all that it had is settled,
	// and the lane is released.
	errLaneStopped = errors.New("the lane was shut down")
	// errJournalChanged: the journal holds what had left it.
	errJournalChanged = errors.New("the lane's journal is not what it was")
	// driver.ErrLeaseLost: the lane is another's, or its lease is not what it was.
	// A *fatalError ends the instance. Any other reason is that hard has ended.
)

// fatalError is one that the instance ends with: the first connection of all to the broker
// could not be made, or the system has no alarm for us.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

// run works until the lane is shut down (soft) or given up at once (hard), and returns why it
// has ended.
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
	// ours ends when the lane is not ours any more: what is under way belongs to its next owner.
	ours, giveUp := context.WithCancelCause(hard)
	defer giveUp(errLaneStopped)
	r.lane.leaveBy(func() { giveUp(driver.ErrLeaseLost) })
	// The lane's next runner may be one of this instance: what this one knows must not be
	// recorded, nor be on its way to the journal, when that reads it.
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
	var group errgroup.Group
	group.Go(func() error {
		if err := r.keepConnected(connected, ours, session); err != nil {
			giveUp(err) // it will not be connected again
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

// connect opens a session and confirms the lease, for as long as it takes. It returns a session,
// or why there is none. The first connection of all is different: it tells a misconfigured broker
// from one that is away, and its error ends the instance.
func (r *laneRunner) connect(soft, hard context.Context, fresh bool) (driver.Session, error) {
	var pause wait.Backoff
	for {
		session, err := r.broker.Connect(hard, driver.ConnectOptions{
			ClientID: r.clientID, QoS: r.delivery.QoS(), Fresh: fresh, Mark: r.lane.leaseNow().Mark, Acks: r.lane.acks,
		})
		if err != nil {
			r.refused++
		} else if err = r.broker.checkIdentity(hard, r.delivery.QoS()); err != nil {
			closeSession(session)
		}
		if err == nil {
			if !r.leases.confirm(hard, r.lane.leaseNow) {
				closeSession(session)
				return nil, driver.ErrLeaseLost
			}
			r.failures.OK(r.log, "connected to the broker again", "client_id", r.clientID)
			r.broker.hasAccepted()
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

// idle reports whether nothing is left to be settled.
func (r *laneRunner) idle() bool { return r.lane.idle() }

// resume sends again after the lease was in doubt.
func (r *laneRunner) resume() { r.lane.resume() }

// lease is the lane's as it stands.
func (r *laneRunner) lease() driver.Lease { return r.lane.leaseNow() }

// holdsFarAhead reports whether the lane does not claim because of what it has recovered.
func (r *laneRunner) holdsFarAhead() bool { return r.farAhead.Load() }
