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

// beginSession begins a session that the journal is about from then on, in place of what the
// broker has; reopen tells the journal so. exposed tells that something depends on what
// the broker had.
//
//	discard ──► reopen (commit) ──► settle ──► connect ──► mark ──► send
//
// If we die before the commit, the broker has no session, or one without the mark that the
// journal names, and the next owner does all of this. If we die after it, no session has
// the new mark, nothing has been sent, and the next owner does it as well.
//
// What is known of the messages is settled before the mark is left: which have ended, and which
// fail because their outcome is unknown (Config.OnSessionLoss). Whoever finds the mark takes the
// session for the one of the journal, and sends what the journal lists.
//
// A session that the broker has made just now is kept, unless there is no mark to tell it
// from the one that it replaces: should it outlive us, it would be taken for that one.
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
	var pause wait.Backoff
	for {
		if session == nil {
			var err error
			if session, err = r.connectEmpty(hard); err != nil {
				return nil, err
			}
		}
		if mark == "" {
			return session, nil
		}
		err := r.leaveMark(hard, session, mark)
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
			case <-session.Done(): // it was ended for the try
				session = nil
			default:
			}
			continue
		}
		r.failures.Fail(r.log, slog.LevelWarn, "cannot mark the session; trying again", "client_id", r.clientID, "err", err)
		discardSession(session) // the mark may be there, in part
		session = nil
		if !pause.Sleep(hard) {
			return nil, hard.Err()
		}
	}
}

// awaitRecorded waits until the journal says all that it should.
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

// connectEmpty connects to a session in which nothing is. Clean Start would do that in one go,
// but Mosquitto 2.0.11 does not save sessions that began with it; so one that is there all
// the same is discarded, and where the broker does not care for that, begun clean and left.
func (r *laneRunner) connectEmpty(hard context.Context) (driver.Session, error) {
	for try := range 3 {
		session, err := r.connect(hard, hard, false)
		if err != nil || !session.Limits().Present {
			return session, err
		}
		if try < 2 {
			discardSession(session)
			continue
		}
		closeSession(session)
	}
	session, err := r.connect(hard, hard, true)
	if err != nil {
		return nil, err
	}
	closeSession(session)
	return r.connect(hard, hard, false)
}

// renewMark gives a session that we know a whole mark again, where it has lost a part of
// it, or never had one. The mark comes first, and the note of it second: the session is good,
// and both the old mark and the new one may say so.
func (r *laneRunner) renewMark(hard context.Context, session driver.Session) error {
	if session.Limits().Marked {
		return nil
	}
	mark := rand.Text()
	if err := r.leaveMark(hard, session, mark); err != nil {
		if !errors.Is(err, driver.ErrCannotMark) {
			return nil // the session has ended, or next time will do
		}
		mark = ""
	}
	return r.note(hard, mark, func(mark string) error { return r.journal.Mark(hard, r.lane.leaseNow(), mark) })
}

// markPatience is how long a broker may take to leave a mark.
const markPatience = 10 * time.Second

func (r *laneRunner) leaveMark(ctx context.Context, session driver.Session, mark string) error {
	ctx, cancel := context.WithTimeout(ctx, markPatience)
	defer cancel()
	return session.Mark(ctx, mark)
}

// note tells the journal of a mark, for as long as it takes.
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

// closeSession ends a session, which the broker keeps. It waits for a second at most.
func closeSession(s driver.Session) { within(time.Second, s.Close) }

// discardSession ends a session for good.
func discardSession(s driver.Session) { within(time.Second, s.Discard) }

// within is not bounded by a caller's context: whoever gives a session up may have been told
// to end.
func within(d time.Duration, end func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	_ = end(ctx)
}
