package reactor

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/wait"
)

// steadySession is how long a session lasts that is not one of a row of failures.
const steadySession = 10 * time.Second

// keepConnected replaces the session whenever it ends, until ctx ends; then it closes
// it properly. An error is why the lane will not be connected again before that.
func (r *laneRunner) keepConnected(ctx, hard context.Context, session driver.Session) error {
	var pause wait.Backoff
	for {
		begun := time.Now()
		alone, takenOver := r.watch(ctx, session)
		if alone {
			r.lane.attach(session)
			r.stats.lanesUp.Add(1)
			staging := r.beginStaging(ctx, session)
			select {
			case <-ctx.Done():
			case <-session.Done():
			}
			staging.end()
			r.stats.lanesUp.Add(-1)
		}
		if ctx.Err() != nil {
			closeSession(session)
			<-session.Done()
			r.lane.detach(session.Err())
			return nil
		}
		why := session.Err()
		if r.lane.detach(why) || time.Since(begun) > steadySession {
			pause.Reset()
		}
		r.takeovers.ended(time.Now(), time.Since(begun))
		r.failures.Fail(r.log, slog.LevelWarn, "lost the connection to the broker; connecting again", "client_id", r.clientID, "err", why)
		if !pause.Sleep(ctx) {
			return nil
		}
		// Not every broker says that it was a take-over. Connecting again before the lease
		// is confirmed would take the session back from its new owner.
		if !r.leases.confirm(ctx, r.lane.leaseNow) {
			return lostUnlessEnded(ctx)
		}
		takenOver = takenOver || errors.Is(why, driver.ErrSessionTakenOver)
		if takenOver && !r.leaveAlone(ctx) {
			return nil
		}
		var err error
		if session, err = r.reconnect(ctx, hard, takenOver); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// lostUnlessEnded is why a lease could not be confirmed.
func lostUnlessEnded(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return driver.ErrLeaseLost
}

// reconnect returns a session in which all is known that was sent, or, where the broker has
// lost it, a new one. noted tells that the last one is known to have been taken over.
//
// A session without our mark may be that of somebody who has taken it over, or one of an older
// save of the broker's, unless it could be reached all the while.
func (r *laneRunner) reconnect(ctx, hard context.Context, noted bool) (driver.Session, error) {
	var (
		pause   wait.Backoff
		session driver.Session
		err     error
		before  = r.refused
	)
	for lost := false; ; {
		if session, err = r.connect(ctx, ctx, false); err != nil {
			return nil, err
		}
		away := r.refused > before
		if away {
			r.takeovers.away()
		}
		// Without a mark a session that is there now may be the empty one of our last try.
		lost = !session.Limits().Resumed || lost && r.lane.leaseNow().Mark == ""
		strange := lost && session.Limits().Present && r.lane.leaseNow().Mark != ""
		if strange && !noted && !away {
			noted = true
			closeSession(session)
			if !r.leaveAlone(ctx) {
				return nil, ctx.Err()
			}
			continue
		}
		if !lost {
			if r.delivery.QoS() == 2 {
				if err := r.renewMark(ctx, session); err != nil {
					closeSession(session)
					return nil, err
				}
			}
			return session, nil
		}
		// A broker that was started anew may have been configured anew. One that does not go
		// by client ids any more has our sessions still, and will find them when it does.
		if err = r.broker.recheckIdentity(ctx, r.delivery.QoS()); err == nil {
			break
		}
		closeSession(session)
		r.failures.Fail(r.log, slog.LevelWarn, "cannot connect to the broker; trying again", "client_id", r.clientID, "err", err)
		if !pause.Sleep(ctx) {
			return nil, ctx.Err()
		}
	}
	exposed := r.lane.exposed()
	if exposed {
		r.log.Warn("the broker lost the session of a lane; what becomes of messages on their way is unknown", "client_id", r.clientID, "policy", r.onLoss)
	} else if r.delivery.QoS() < 2 {
		return session, nil
	}
	round := newRound()
	return r.beginSession(ctx, session, exposed, func(mark string) error {
		return r.settler.reopen(hard, r.lane, round, mark)
	})
}

// watch looks at a session before anything is sent over it, where somebody else may be
// using it; it reports whether it is still there, and if not, whether somebody has it now.
//
// A second connection, under a client id that nobody uses, tells a take-over from a connection
// that ends as all do: where the network, or the broker, comes and goes, it does not last either.
func (r *laneRunner) watch(ctx context.Context, session driver.Session) (alone, takenOver bool) {
	d := r.takeovers.watch(time.Now())
	if d == 0 {
		return true, false
	}
	over, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	second, err := r.broker.Connect(over, driver.ConnectOptions{
		ClientID: driver.ProbePrefix + rand.Text(), QoS: 0, Fresh: true, Acks: func([]driver.Ack) {},
	})
	if err == nil {
		defer closeSession(second)
	}
	select {
	case <-session.Done():
	case <-over.Done():
	}
	select {
	case <-session.Done():
	default:
		if ctx.Err() == nil {
			r.takeovers.nobodyElse(time.Now())
		}
		return ctx.Err() == nil, false
	}
	if err == nil {
		select {
		case <-second.Done():
		case <-over.Done():
			return false, ctx.Err() == nil
		}
	} else if refused := (*driver.ConnectRefusedError)(nil); errors.As(err, &refused) {
		return false, ctx.Err() == nil // not every broker lets strangers in; then we cannot tell
	}
	r.takeovers.endsForAll(time.Now())
	return false, false
}

// leaveAlone stays away from a session that somebody took over while the lane is ours.
func (r *laneRunner) leaveAlone(ctx context.Context) bool {
	pause, shared := r.takeovers.takenOver(time.Now())
	if shared {
		r.log.Error("somebody else uses the MQTT session of this lane, again and again, and it is no instance of this deployment: does a copy of the database run on the same broker? Give one of the two a name of its own (pgsource.Config.Deployment). Nothing is sent over this lane until they have gone",
			"client_id", r.clientID, "next_look", pause.Round(time.Second))
		r.stats.contested.Add(1)
		defer r.stats.contested.Add(-1)
	}
	return wait.Sleep(ctx, pause)
}
