package reactor

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// steadySession is how long a session lasts that is not one of a row of failures.
const steadySession = 10 * time.Second

// keepConnected replaces the session whenever it ends, until ctx ends; then it closes
// it properly.
func (r *laneRunner) keepConnected(ctx, hard context.Context, session driver.Session) {
	var pause backoff
	for {
		begun := time.Now()
		alone, evicted := r.watch(ctx, session)
		if alone {
			r.attach(session)
			r.stats.lanesUp.Add(1)
			select {
			case <-ctx.Done():
			case <-session.Done():
			}
			r.stats.lanesUp.Add(-1)
		}
		if ctx.Err() != nil {
			closeSession(session)
			<-session.Done()
			r.detach(session.Err())
			return
		}
		why := session.Err()
		if r.detach(why) || time.Since(begun) > steadySession {
			pause.reset()
		}
		r.contest.ended(time.Now(), time.Since(begun))
		r.failures.Fail(r.log, slog.LevelWarn, "lost the connection to the broker; connecting again", "client_id", r.clientID, "err", why)
		if !pause.sleep(ctx) {
			return
		}
		// Not every broker says that it was a take-over. Connecting again before the lease
		// is confirmed would take the session back from its new owner.
		if !r.incarnation.confirmLease(ctx, r.lane) {
			return
		}
		takenOver := errors.Is(why, driver.ErrSessionTakenOver) || evicted
		if takenOver && !r.leaveAlone(ctx) {
			return
		}
		if session = r.reconnect(ctx, hard, takenOver); session == nil {
			return
		}
	}
}

// reconnect returns a session in which all is known that was sent, or, where the broker has
// lost it, a new one. noted tells that the last one is known to have been taken over.
//
// A session without our mark may be that of somebody who has taken it over, or one of an older
// save of the broker's, unless it could be reached all the while.
func (r *laneRunner) reconnect(ctx, hard context.Context, noted bool) driver.Session {
	var (
		pause   backoff
		session driver.Session
		before  = r.refused
	)
	for lost := false; ; {
		session, _ = r.connect(ctx, ctx, false) // it has no error to report: the first connection has long been made
		if session == nil {
			return nil
		}
		away := r.refused > before
		if away {
			r.contest.away()
		}
		// Without a mark a session that is there now may be the empty one of our last try.
		lost = !session.Limits().Resumed || lost && r.leaseNow().Mark == ""
		strange := lost && session.Limits().Present && r.leaseNow().Mark != ""
		if strange && !noted && !away {
			noted = true
			closeSession(session)
			if !r.leaveAlone(ctx) {
				return nil
			}
			continue
		}
		if !lost {
			if r.delivery.QoS() == 2 && r.renewMark(ctx, session) != nil {
				closeSession(session)
				return nil
			}
			return session
		}
		// A broker that was started anew may have been configured anew. One that does not go
		// by client ids any more has our sessions still, and will find them when it does.
		r.incarnation.identity.again()
		err := r.incarnation.identity.check(ctx, r.incarnation.sink, r.delivery.QoS())
		if err == nil {
			break
		}
		closeSession(session)
		r.failures.Fail(r.log, slog.LevelWarn, "cannot connect to the broker; trying again", "client_id", r.clientID, "err", err)
		if !pause.sleep(ctx) {
			return nil
		}
	}
	exposed := r.exposed()
	if exposed {
		r.log.Warn("the broker lost the session of a lane; what becomes of messages on their way is unknown", "client_id", r.clientID, "policy", r.onLoss)
	} else if r.delivery.QoS() < 2 {
		return session
	}
	round := newRound()
	session, err := r.beginSession(ctx, session, exposed, func(mark string) error {
		return r.incarnation.settler.reopen(hard, r.lane, round, mark)
	})
	if err != nil {
		return nil
	}
	return session
}

// watch looks at a session before anything is sent over it, where somebody else may be
// using it; it reports whether it is still there, and if not, whether somebody has it now.
//
// A witness under a client id that nobody uses tells a take-over from a connection that
// ends as all do: where the network, or the broker, comes and goes, it does not last either.
func (r *laneRunner) watch(ctx context.Context, session driver.Session) (alone, evicted bool) {
	d := r.contest.watch(time.Now())
	if d == 0 {
		return true, false
	}
	over, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	witness, err := r.incarnation.sink.Connect(over, driver.ConnectOptions{
		ClientID: driver.ProbePrefix + rand.Text(), QoS: 0, Fresh: true, Acks: func([]driver.Ack) {},
	})
	if err == nil {
		defer closeSession(witness)
	}
	select {
	case <-session.Done():
	case <-over.Done():
	}
	select {
	case <-session.Done():
	default:
		if ctx.Err() == nil {
			r.contest.quiet(time.Now())
		}
		return ctx.Err() == nil, false
	}
	if err == nil {
		select {
		case <-witness.Done():
		case <-over.Done():
			return false, ctx.Err() == nil
		}
	} else if refused := (*driver.ConnectRefusedError)(nil); errors.As(err, &refused) {
		return false, ctx.Err() == nil // not every broker lets strangers in; then we cannot tell
	}
	r.contest.acquit(time.Now())
	return false, false
}

// leaveAlone stays away from a session that somebody took over while the lane is ours.
func (r *laneRunner) leaveAlone(ctx context.Context) bool {
	pause, contested := r.contest.takenOver(time.Now())
	if contested {
		r.log.Error("somebody else uses the MQTT session of this lane, again and again, and it is no instance of this deployment: does a copy of the database run on the same broker? Give one of the two a name of its own (--deployment). Nothing is sent over this lane until they have gone",
			"client_id", r.clientID, "next_look", pause.Round(time.Second))
		r.stats.contested.Add(1)
		defer r.stats.contested.Add(-1)
	}
	return sleep(ctx, pause)
}
