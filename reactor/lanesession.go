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

// beginSession begins a new session in place of the one that the broker has. From then on the
// journal is about the new one; reopen writes that to the journal. exposed tells that a batch
// depends on the old session.
//
//	discard ──► reopen (commit) ──► settle ──► connect ──► mark ──► send
//
// If we die before the commit, the broker has no session, or one without the mark that the
// journal names, and the next owner does all of this. If we die after the commit, no session
// has the new mark, nothing has been sent, and the next owner does all of this as well.
//
// All that is known of the messages is settled before the session is marked: which have ended,
// and which fail because their outcome is unknown (Config.OnSessionLoss). Whoever finds the
// mark takes the session for the one of the journal, and sends what the journal lists.
//
// A session that the broker has just created is kept, unless it has no mark that tells it from
// the session that it replaces: if it outlived us, it would be taken for that session.
func (r *laneRunner) beginSession(hard context.Context, session driver.Session, exposed bool, reopen func(mark string) error) (driver.Session, error) {
	if session.Limits().Present || exposed && r.lane.leaseNow().Mark == "" {
		discardSession(session)
		session = nil
	}
	mark := ""
	if r.delivery.QoS() == 2 {
		mark = rand.Text()
	}
	if err := r.note(hard, mark, reopen); err != nil {
		if session != nil {
			closeSession(session)
		}
		return nil, err
	}
	if err := r.awaitRecorded(hard); err != nil {
		if session != nil {
			closeSession(session)
		}
		return nil, err
	}
	var (
		pause      wait.Backoff
		cleanStart bool // the session began with Clean Start
	)
	for {
		if session == nil {
			var err error
			if session, cleanStart, err = r.connectEmpty(hard, &pause); err != nil {
				return nil, err
			}
		}
		if mark == "" {
			if !cleanStart {
				return session, nil
			}
			closeSession(session)
			var err error
			if session, err = r.connect(hard, hard, false); err != nil || session.Limits().Resumed {
				return session, err
			}
			discardSession(session) // another broker's, or a new one
			session = nil
			if !pause.Sleep(hard) {
				return nil, hard.Err()
			}
			continue
		}
		err := r.leaveMark(hard, session, mark)
		if err == nil && cleanStart {
			closeSession(session)
			if session, err = r.connect(hard, hard, false); err != nil {
				return nil, err
			}
			// It has to be the one that we have just marked. Somebody else may have put another one in
			// its place meanwhile, and both of us would use that one.
			if !session.Limits().Resumed {
				err = errReplaced
			}
		}
		if err == nil {
			return session, nil
		}
		if hard.Err() != nil {
			closeSession(session)
			return nil, hard.Err()
		}
		if errors.Is(err, driver.ErrCannotMark) {
			r.broker.cannotMark(r.log, err)
			mark = ""
			if err := r.note(hard, mark, reopen); err != nil {
				closeSession(session)
				return nil, err
			}
			select {
			case <-session.Done(): // the attempt to mark has ended the session
				session = nil
			default:
			}
			continue
		}
		r.failures.Fail(r.log, slog.LevelWarn, "cannot mark the session; trying again", "client_id", r.clientID, "err", err)
		lookBack(hard, session)
		discardSession(session) // the mark may have been left in part
		session = nil
		if !pause.Sleep(hard) {
			return nil, hard.Err()
		}
		// If the broker did not hear that, and we go on at another one, the session stays there with its
		// mark. So no mark is left in two sessions.
		mark = rand.Text()
		if err := r.note(hard, mark, reopen); err != nil {
			return nil, err
		}
	}
}

// errReplaced: a session that we began is not there any more.
var errReplaced = errors.New("somebody else has begun a session in its place")

// awaitRecorded waits until the journal has all news.
func (r *laneRunner) awaitRecorded(hard context.Context) error {
	for r.lane.hasNews() {
		select {
		case <-hard.Done():
			return context.Cause(hard)
		case <-r.lane.recorded:
		}
	}
	return nil
}

// connectEmpty connects to an empty session, which this connection has created, so nobody else has
// used it. Clean Start would do that at once, but Mosquitto 2.0.11 does not save sessions that began
// with it. So an existing session is discarded. If it is there even so, because the broker keeps it or
// somebody else uses our client id, a session is begun with Clean Start (cleanStart), which has to be
// connected to again. The pauses leave somebody else the time to go on, so that not both sides spend
// their time on taking the session from each other.
func (r *laneRunner) connectEmpty(hard context.Context, pause *wait.Backoff) (session driver.Session, cleanStart bool, err error) {
	for try := range 3 {
		session, err := r.connect(hard, hard, false)
		if err != nil || !session.Limits().Present {
			return session, false, err
		}
		if try < 2 {
			discardSession(session)
		} else {
			closeSession(session)
		}
		if try > 0 && !pause.Sleep(hard) {
			return nil, false, hard.Err()
		}
	}
	session, err = r.connect(hard, hard, true)
	return session, true, err
}

// renewMark gives a session that we know a complete mark again, if it has lost a part of the
// mark, or never had one. The session is marked first, and the journal notes the mark second:
// the session is the right one, so both the old mark and the new one may identify it.
func (r *laneRunner) renewMark(hard context.Context, session driver.Session) error {
	if session.Limits().Marked {
		return nil
	}
	mark := rand.Text()
	if err := r.leaveMark(hard, session, mark); err != nil {
		if !errors.Is(err, driver.ErrCannotMark) {
			return nil // the session has ended, or the next connection renews the mark
		}
		mark = ""
	}
	return r.note(hard, mark, func(mark string) error { return r.journal.Mark(hard, r.lane.leaseNow(), mark) })
}

// markPatience is how long a broker may take to mark a session.
const markPatience = 10 * time.Second

func (r *laneRunner) leaveMark(ctx context.Context, session driver.Session, mark string) error {
	ctx, cancel := context.WithTimeout(ctx, markPatience)
	defer cancel()
	return session.Mark(ctx, mark)
}

// note writes a mark to the journal, and tries for as long as it takes.
func (r *laneRunner) note(hard context.Context, mark string, reopen func(string) error) error {
	var pause wait.Backoff
	for {
		err := reopen(mark)
		if err == nil {
			r.lane.marked(mark)
			return nil
		}
		if errors.Is(err, driver.ErrLeaseLost) || hard.Err() != nil {
			return err
		}
		r.failures.Fail(r.log, slog.LevelWarn, "cannot note that a session begins; trying again", "client_id", r.clientID, "err", err)
		if !pause.Sleep(hard) {
			return hard.Err()
		}
	}
}

// closeSession closes the connection; the broker keeps the session. It waits for a second at
// most.
func closeSession(s driver.Session) { within(time.Second, s.Close) }

// discardSession closes the connection and has the broker delete the session.
func discardSession(s driver.Session) { within(time.Second, s.Discard) }

// within does not use a caller's context: whoever gives a session up may have been told to end.
func within(d time.Duration, end func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	_ = end(ctx)
}
