package reactor

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// steadySession is how long a session has to last so that its end does not count as another
// failure in a row.
const steadySession = 10 * time.Second

// keepConnected replaces the session whenever it ends. When ctx ends it ends the session
// (endSession). If it gives up before that, it returns why.
func (r *laneRunner) keepConnected(ctx, hard, stopping context.Context, session driver.Session) error {
	var pause wait.Backoff
	for {
		begun := time.Now()
		alone, takenOver := r.watch(ctx, session)
		if alone {
			r.lane.attach(session)
			r.stats.lanesUp.Add(1)
			staging := r.beginStaging(ctx, session)
			returning := r.beginReturning(ctx, session)
			select {
			case <-ctx.Done():
			case <-session.Done():
			}
			returning()
			staging.end()
			r.stats.lanesUp.Add(-1)
		}
		if ctx.Err() != nil {
			r.endSession(hard, stopping, session)
			<-session.Done()
			r.lane.detach(session.Err())
			return nil
		}
		why := session.Err()
		ours := errors.Is(why, driver.ErrSessionGivenUp)
		if r.lane.detach(why) || ours || time.Since(begun) > steadySession {
			pause.Reset()
		}
		if !ours {
			r.takeovers.ended(time.Now(), time.Since(begun))
		}
		r.failures.Fail(r.log, slog.LevelWarn, "lost the connection to the broker; connecting again", "client_id", r.clientID, "err", why)
		if !pause.Sleep(ctx) {
			return nil
		}
		// Not every broker says that a connection ended by a take-over. To connect again before
		// the lease is confirmed would take the session back from its new owner.
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

// endSession ends the session of a lane that is to be connected no more. What is queued is sent
// only if the lane is ours: it has settled everything, or the instance is told to end while its leases
// hold. A lane with another owner sends nothing: that one sends the same, perhaps at another
// broker, which cannot recognize the repetition.
func (r *laneRunner) endSession(ours, stopping context.Context, session driver.Session) {
	if ours.Err() == nil || stopping.Err() != nil && !errors.Is(context.Cause(ours), driver.ErrLeaseLost) && r.lane.leased() {
		closeSession(session)
		return
	}
	session.Abort()
}

// lostUnlessEnded returns the reason why a lease could not be confirmed.
func lostUnlessEnded(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return driver.ErrLeaseLost
}

// reconnect returns the lane's session, in which the broker knows what was sent, or a new one
// if the broker has lost it. noted tells that the take-over of the last connection is already
// counted.
//
// A session without our mark may belong to somebody who has taken ours over. Or the broker was
// away meanwhile, and has restarted with an older saved state.
func (r *laneRunner) reconnect(ctx, hard context.Context, noted bool) (driver.Session, error) {
	var (
		pause   wait.Backoff
		session driver.Session
		err     error
		before  = r.refused + r.moves
	)
	for lost := false; ; {
		if session, err = r.connect(ctx, ctx, false); err != nil {
			return nil, err
		}
		away := r.refused+r.moves > before // or it is another broker, with an older session
		if away {
			r.takeovers.away()
		}
		// Without a mark, a session that is there now may be the empty one that our last
		// attempt left.
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
		// A broker that was restarted may have a new configuration. If it does not tell clients
		// apart by their client ids any more, it still has our sessions, and finds them once
		// the setting is gone.
		if err = r.broker.recheckIdentity(ctx, session.Limits().Broker, r.delivery.QoS()); err == nil {
			break
		}
		lookBack(ctx, session)
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

// watch observes a session, before anything is sent over it, if somebody else may be using it.
// It reports whether the connection is still there (alone), and if not, whether somebody has
// taken it over.
//
// A second connection, under a client id that nobody uses, tells a take-over from other causes:
// if the network or the broker comes and goes, the second connection does not last either.
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
		return false, ctx.Err() == nil // not every broker accepts unknown client ids; then we cannot tell the causes apart
	}
	r.takeovers.endsForAll(time.Now())
	return false, false
}

// leaveAlone waits without connecting, after somebody has taken the session over while the lane
// is ours.
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
