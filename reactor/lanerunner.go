package reactor

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/alarm"
	"github.com/job-publisher/reactor/internal/ratelog"
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
	failures    ratelog.Limiter
}

// run works until the lane is wound up (soft) or given up at once (hard). An error is
// one that the whole instance should end with.
func (r *laneRunner) run(soft, hard context.Context) error {
	session, err := r.connect(soft, hard)
	if session == nil {
		return err
	}
	hard, abandon := context.WithCancel(hard)
	defer abandon()
	r.leaveBy(abandon)
	if err := r.recover(hard, !session.Limits().Resumed); err != nil {
		closeSession(session)
		return nil // hard ended, or the lane is another's
	}
	keeper, keep := context.WithCancel(hard)
	group, _ := errgroup.WithContext(hard)
	group.Go(func() error {
		r.keepConnected(keeper, hard, session)
		return nil
	})
	err = r.serve(soft, hard)
	if errors.Is(err, ErrLeaseLost) {
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

// serve claims and launches until soft ends; a guest has nothing to do here.
func (r *laneRunner) serve(soft, hard context.Context) error {
	if r.claimer == nil {
		return nil
	}
	wake, err := alarm.New()
	if err != nil {
		return err
	}
	defer wake.Close()
	r.pad.wake = wake
	launching, stopLaunching := context.WithCancel(hard)
	launched := make(chan struct{})
	go func() {
		defer close(launched)
		r.pad.run(launching)
	}()
	err = r.claimer.run(soft, hard)
	stopLaunching()
	<-launched
	return err
}

// connect opens a session and confirms the lease, for as long as it takes. The first
// connection of all is different: it tells a misconfigured broker from one that is
// away, and its error ends the instance.
func (r *laneRunner) connect(soft, hard context.Context) (Session, error) {
	var pause backoff
	for {
		session, err := r.incarnation.sink.Connect(hard, ConnectOptions{
			ClientID: r.clientID, Delivery: r.delivery, Acks: r.acks,
		})
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

// recover takes over what the journal holds of this lane. lost tells that the broker
// has no session of the lane.
func (r *laneRunner) recover(hard context.Context, lost bool) error {
	var pause backoff
	for {
		lease, _, _ := r.room(0)
		batches, err := r.readJournal(hard, lease, lost)
		if err == nil {
			if len(batches) > 0 {
				jobs := 0
				for _, b := range batches {
					jobs += len(b.Jobs)
				}
				r.stats.recovered.Add(int64(jobs))
				r.log.Warn("recovering what an earlier owner of the lane left unsettled", "lane", lease.Lane, "jobs", jobs)
			}
			r.recovered(batches, lost)
			return nil
		}
		if errors.Is(err, ErrLeaseLost) || hard.Err() != nil {
			return err
		}
		r.failures.Fail(r.log, slog.LevelWarn, "cannot recover; trying again", "lane", lease.Lane, "err", err)
		if !pause.sleep(hard) {
			return hard.Err()
		}
	}
}

// readJournal returns what is unsettled; after the loss of the broker's session, with
// nothing said of it.
func (r *laneRunner) readJournal(ctx context.Context, lease Lease, lost bool) ([]Batch, error) {
	if lost {
		if err := r.incarnation.source.Reopen(ctx, lease, newRound()); err != nil {
			return nil, err
		}
	}
	return r.incarnation.source.Recover(ctx, lease)
}

// steadySession is how long a session lasts that is not one of a row of failures.
const steadySession = 10 * time.Second

// keepConnected replaces the session whenever it ends, until ctx ends; then it closes
// it properly.
func (r *laneRunner) keepConnected(ctx, hard context.Context, session Session) {
	var pause backoff
	for {
		begun := time.Now()
		r.attach(session)
		r.stats.lanesUp.Add(1)
		select {
		case <-ctx.Done():
			closeSession(session)
			<-session.Done()
			r.stats.lanesUp.Add(-1)
			r.detach(session.Err())
			return
		case <-session.Done():
		}
		r.stats.lanesUp.Add(-1)
		if r.detach(session.Err()) || time.Since(begun) > steadySession {
			pause.reset()
		}
		r.failures.Fail(r.log, slog.LevelWarn, "lost the connection to the broker; connecting again", "client_id", r.clientID, "err", session.Err())
		if !pause.sleep(ctx) || errors.Is(session.Err(), ErrSessionTakenOver) && !sleep(ctx, jitter(time.Second)) {
			return
		}
		// Not every broker says that it was a take-over. Connecting again before the lease
		// is confirmed would take the session back from its new owner.
		if !r.incarnation.confirmLease(ctx, r.lane) {
			return
		}
		if session, _ = r.connect(ctx, ctx); session == nil {
			return // it has no error to report: the first connection has long been made
		}
		if !session.Limits().Resumed && r.exposed() {
			r.log.Warn("the broker lost the session of a lane; what becomes of messages on their way is unknown", "client_id", r.clientID, "policy", r.onLoss)
			if err := r.incarnation.settler.reopen(hard, r.lane); err != nil {
				closeSession(session)
				return
			}
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

// closeSession says goodbye, and insists after a second.
func closeSession(s Session) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Close(ctx)
}
