package reactor

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/reactor/driver"
)

// laneRunner works one leased lane: connects it, recovers what its last owner left,
// keeps it connected, and winds it up.
//
//	connect ──► confirm lease ──► recover ──► serve ──► stop: hand back, await acks,
//	   ▲                                        │       settle, disconnect, release
//	   └──────── connection lost ◄──────────────┘
//
// The order at the top matters. Once the broker has accepted our connection it has
// closed that of an owner before us; once the lease is confirmed after that, we are
// the only one to send; and only then is the journal complete.
type laneRunner struct {
	*lane
	incarnation *incarnation
	claimer     *claimer // nil: a guest lane, only recovered and released
	pad         *launchpad
	contest     contest
	look        signal // at the journal, see audit
	failures    ratelog.Limiter
	refused     int           // connections that could not be made; of the goroutine that connects
	latest      driver.DBTime // when the last of the recovered jobs is due that are not yet
	parked      atomic.Bool   // see park
}

// run works until the lane is wound up (soft) or given up at once (hard). An error is
// one that the whole instance should end with.
func (r *laneRunner) run(soft, hard context.Context) error {
	session, err := r.connect(soft, hard, false)
	if session == nil {
		return err
	}
	hard, abandon := context.WithCancel(hard)
	defer abandon()
	r.leaveBy(abandon)
	if session, err = r.recover(hard, session); err != nil {
		return nil // hard ended, or the lane is another's
	}
	wake, err := r.incarnation.timers.newAlarm()
	if err != nil {
		closeSession(session)
		return err
	}
	defer wake.Close()
	r.pad.wake = wake
	keeper, keep := context.WithCancel(hard)
	group, _ := errgroup.WithContext(hard)
	group.Go(func() error {
		r.keepConnected(keeper, hard, session)
		if keeper.Err() == nil {
			abandon() // it will not be connected again
		}
		return nil
	})
	r.incarnation.enter(r)
	defer r.incarnation.exit(r)
	group.Go(func() error {
		if !r.audit(keeper) {
			abandon()
		}
		return nil
	})
	// Jobs that were recovered before their time are launched until the end.
	group.Go(func() error {
		r.pad.run(keeper)
		return nil
	})
	if !r.park() && r.claimer != nil {
		err = r.claimer.run(soft, hard)
	}
	if errors.Is(err, driver.ErrLeaseLost) {
		abandon() // what is under way belongs to the new owner
	}
	r.handBack()
	r.awaitIdle(hard)
	keep()
	_ = group.Wait()
	if hard.Err() == nil {
		r.incarnation.release(hard, r.lane)
	}
	r.drop()
	return nil
}

// connect opens a session and confirms the lease, for as long as it takes. The first
// connection of all is different: it tells a misconfigured broker from one that is
// away, and its error ends the instance.
func (r *laneRunner) connect(soft, hard context.Context, fresh bool) (driver.Session, error) {
	var pause backoff
	for {
		session, err := r.incarnation.sink.Connect(hard, driver.ConnectOptions{
			ClientID: r.clientID, QoS: r.delivery.QoS(), Fresh: fresh, Mark: r.leaseNow().Mark, Acks: r.acks,
		})
		if err != nil {
			r.refused++
		} else {
			if err = r.incarnation.identity.check(hard, r.incarnation.sink, r.delivery.QoS()); err != nil {
				closeSession(session)
			}
		}
		if err == nil {
			if r.incarnation.confirmLease(hard, r.lane) {
				r.failures.OK(r.log, "connected to the broker again", "client_id", r.clientID)
				r.incarnation.everConnected.Store(true)
				return session, nil
			}
			closeSession(session)
			return nil, nil
		}
		if soft.Err() != nil && r.idle() || hard.Err() != nil {
			return nil, nil
		}
		if !r.incarnation.everConnected.Load() {
			return nil, err
		}
		r.failures.Fail(r.log, slog.LevelWarn, "cannot connect to the broker; trying again", "client_id", r.clientID, "err", err)
		if !pause.sleep(hard) {
			return nil, nil
		}
	}
}

// awaitIdle waits until everything under way has been acknowledged and settled.
func (r *laneRunner) awaitIdle(hard context.Context) {
	for !r.idle() {
		select {
		case <-hard.Done():
			return
		case <-r.capacity:
		}
	}
}
