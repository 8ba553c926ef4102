package reactor

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
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
	contest     contest
	look        signal // at the journal, see audit
	failures    ratelog.Limiter
	latest      DBTime      // when the last of the recovered jobs is due that are not yet
	parked      atomic.Bool // see park
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
	wake, err := alarm.New()
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
	if r.claimer != nil && !r.park() {
		err = r.claimer.run(soft, hard)
	}
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

// connect opens a session and confirms the lease, for as long as it takes. The first
// connection of all is different: it tells a misconfigured broker from one that is
// away, and its error ends the instance.
func (r *laneRunner) connect(soft, hard context.Context, fresh bool) (Session, error) {
	var pause backoff
	for {
		session, err := r.incarnation.sink.Connect(hard, ConnectOptions{
			ClientID: r.clientID, Delivery: r.delivery, Fresh: fresh, Mark: r.leaseNow().Mark, Acks: r.acks,
		})
		if err == nil {
			if err = r.incarnation.identity.check(hard, r.incarnation.sink, r.delivery); err != nil {
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

// recover takes over what the journal holds of this lane, and returns the session to go on
// with.
//
// At QoS 2 it is the one that the journal speaks of, as long as something depends on it;
// else a new one. What a broker may keep of messages that the journal has no trace of, as
// after a failover that lost some commits, would swallow new ones in the same slots.
func (r *laneRunner) recover(hard context.Context, session Session) (Session, error) {
	batches, err := r.readJournal(hard)
	if err != nil {
		closeSession(session)
		return nil, err
	}
	batches, ended := superseded(batches)
	if err := r.settleEnded(hard, ended); err != nil {
		closeSession(session)
		return nil, err
	}
	lost := !session.Limits().Resumed
	if !lost && len(batches) > 0 && r.delivery.QoS() == 2 {
		if err := r.renewMark(hard, session); err != nil {
			closeSession(session)
			return nil, err
		}
	}
	if r.delivery.QoS() == 2 && (lost || len(batches) == 0) || lost && anyQoS2(batches) {
		round := newRound()
		if session, err = r.beginSession(hard, session, anyQoS2(batches), func(mark string) error {
			return r.incarnation.source.Reopen(hard, r.leaseNow(), round, mark)
		}); err != nil {
			return nil, err
		}
		for i := range batches {
			if batches[i].QoS == 2 {
				batches[i].Round = round
			}
		}
		if lost && anyQoS2(batches) {
			r.log.Warn("the broker has no session of a lane whose last owner left messages on their way; what becomes of those is unknown", "client_id", r.clientID, "policy", r.onLoss)
		}
	}
	if len(batches) > 0 {
		jobs := 0
		for _, b := range batches {
			jobs += len(b.Jobs)
		}
		r.stats.recovered.Add(int64(jobs))
		r.log.Warn("recovering what an earlier owner of the lane left unsettled", "lane", r.leaseNow().Lane, "jobs", jobs)
	}
	for _, w := range r.recovered(batches, lost) {
		r.pad.put(w.flying, w.i, []Job{w.job})
		r.latest = max(r.latest, w.job.FireAt)
	}
	return session, nil
}

// parkedAhead is for how long a lane may wait for recovered jobs and claim others as well.
const parkedAhead = time.Second

// park makes a guest of a lane whose recovered jobs are due much later, as after the
// database's clock was set back. They keep its first slots until then, and what is claimed
// behind them would soon be out of reach. Another lane takes the place.
func (r *laneRunner) park() bool {
	if r.latest.Sub(r.clock.Now()) < parkedAhead {
		return false
	}
	r.parked.Store(true)
	r.incarnation.beatNow.set()
	return true
}

// superseded tells batches apart whose slots a later one has taken. Their deletion was
// committed before that, and a failover has brought them back: they have ended.
func superseded(batches []Batch) (live, ended []Batch) {
	taken := map[Slot]bool{}
	for i := len(batches) - 1; i >= 0; i-- {
		b, again := batches[i], false
		for place := range b.Jobs {
			again = again || taken[slotAfter(b.FirstSlot, place)]
		}
		if again {
			ended = append(ended, b)
			continue
		}
		for place := range b.Jobs {
			taken[slotAfter(b.FirstSlot, place)] = true
		}
		live = append(live, b)
	}
	slices.Reverse(live)
	return live, ended
}

// settleEnded takes batches out of the journal that have ended before.
func (r *laneRunner) settleEnded(hard context.Context, ended []Batch) error {
	settlements := make([]Settlement, 0, len(ended))
	for _, b := range ended {
		n := len(b.Jobs)
		settlements = append(settlements, Settlement{
			BatchID: b.ID, Round: b.Round, Token: b.Token, Lease: r.leaseNow(), Jobs: n, Kept: n, Settled: n, Done: true,
		})
	}
	var pause backoff
	for len(settlements) > 0 {
		_, err := r.incarnation.source.Settle(hard, settlements)
		if err == nil {
			r.log.Warn("the journal lists messages again that had left it: did a failover lose the last commits?", "lane", r.leaseNow().Lane, "batches", len(settlements))
			return nil
		}
		r.failures.Fail(r.log, slog.LevelWarn, "cannot settle; trying again", "err", err)
		if !pause.sleep(hard) {
			return hard.Err()
		}
	}
	return nil
}

func anyQoS2(batches []Batch) bool {
	for _, b := range batches {
		if b.QoS == 2 {
			return true
		}
	}
	return false
}

// readJournal returns what is unsettled.
func (r *laneRunner) readJournal(hard context.Context) ([]Batch, error) {
	var pause backoff
	for {
		lease := r.leaseNow()
		batches, err := r.incarnation.source.Recover(hard, lease)
		if err == nil || errors.Is(err, ErrLeaseLost) || hard.Err() != nil {
			return batches, err
		}
		r.failures.Fail(r.log, slog.LevelWarn, "cannot recover; trying again", "lane", lease.Lane, "err", err)
		if !pause.sleep(hard) {
			return nil, hard.Err()
		}
	}
}

// beginSession begins a session that the journal is about from then on, in place of what the
// broker has; reopen tells the journal so. exposed tells that something depends on what
// the broker had.
//
//	discard ──► reopen (commit) ──► connect ──► mark ──► send
//
// If we die before the commit, the broker has no session, or one without the mark that the
// journal names, and the next owner does all of this. If we die after it, no session has
// the new mark, nothing has been sent, and the next owner does it as well.
//
// A session that the broker has made just now is kept, unless there is no mark to tell it
// from the one that it replaces: should it outlive us, it would be taken for that one.
func (r *laneRunner) beginSession(hard context.Context, session Session, exposed bool, reopen func(mark string) error) (Session, error) {
	if session.Limits().Present || exposed && r.leaseNow().Mark == "" {
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
	var pause backoff
	for {
		if session == nil {
			if session = r.connectEmpty(hard); session == nil {
				return nil, ErrLeaseLost // or hard has ended
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
		if errors.Is(err, ErrCannotMark) {
			r.incarnation.unmarked.Do(func() {
				r.log.Warn("sessions cannot be marked at this broker: should it lose one while an instance dies, messages on their way may be lost", "err", err)
			})
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
		if !pause.sleep(hard) {
			return nil, hard.Err()
		}
	}
}

// connectEmpty connects to a session in which nothing is. Clean Start would do that in one go,
// but Mosquitto 2.0.11 does not save sessions that began with it; so one that is there all
// the same is discarded, and where the broker does not care for that, begun clean and left.
func (r *laneRunner) connectEmpty(hard context.Context) Session {
	for try := range 3 {
		session, _ := r.connect(hard, hard, false) // it has no error to report: the first connection has been made
		if session == nil || !session.Limits().Present {
			return session
		}
		if try < 2 {
			discardSession(session)
			continue
		}
		closeSession(session)
	}
	session, _ := r.connect(hard, hard, true)
	if session == nil {
		return nil
	}
	closeSession(session)
	session, _ = r.connect(hard, hard, false)
	return session
}

// renewMark gives a session that we know a whole mark again, where it has lost a part of
// it, or never had one. The mark comes first, and the note of it second: the session is good,
// and both the old mark and the new one may say so.
func (r *laneRunner) renewMark(hard context.Context, session Session) error {
	if session.Limits().Marked {
		return nil
	}
	mark := rand.Text()
	if err := r.leaveMark(hard, session, mark); err != nil {
		if !errors.Is(err, ErrCannotMark) {
			return nil // the session has ended, or next time will do
		}
		mark = ""
	}
	return r.note(hard, mark, func(mark string) error { return r.incarnation.source.Mark(hard, r.leaseNow(), mark) })
}

// markPatience is how long a broker may take to leave a mark.
const markPatience = 10 * time.Second

func (r *laneRunner) leaveMark(ctx context.Context, session Session, mark string) error {
	ctx, cancel := context.WithTimeout(ctx, markPatience)
	defer cancel()
	return session.Mark(ctx, mark)
}

// note tells the journal of a mark, for as long as it takes.
func (r *laneRunner) note(hard context.Context, mark string, reopen func(string) error) error {
	var pause backoff
	for {
		err := reopen(mark)
		if err == nil {
			r.marked(mark)
			return nil
		}
		if errors.Is(err, ErrLeaseLost) || hard.Err() != nil {
			return err
		}
		r.failures.Fail(r.log, slog.LevelWarn, "cannot note that a session begins; trying again", "client_id", r.clientID, "err", err)
		if !pause.sleep(hard) {
			return hard.Err()
		}
	}
}

// steadySession is how long a session lasts that is not one of a row of failures.
const steadySession = 10 * time.Second

// keepConnected replaces the session whenever it ends, until ctx ends; then it closes
// it properly.
func (r *laneRunner) keepConnected(ctx, hard context.Context, session Session) {
	var pause backoff
	for {
		begun := time.Now()
		seen := r.watch(ctx, session)
		if seen == nobody {
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
		takenOver := errors.Is(why, ErrSessionTakenOver) || seen == somebody
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
func (r *laneRunner) reconnect(ctx, hard context.Context, noted bool) Session {
	var (
		pause   backoff
		session Session
	)
	for lost := false; ; {
		session, _ = r.connect(ctx, ctx, false) // it has no error to report: the first connection has long been made
		if session == nil {
			return nil
		}
		// Without a mark a session that is there now may be the empty one of our last try.
		if lost = !session.Limits().Resumed || lost && r.leaseNow().Mark == ""; !lost {
			if r.delivery.QoS() == 2 && r.renewMark(ctx, session) != nil {
				closeSession(session)
				return nil
			}
			return session
		}
		if session.Limits().Present && r.leaseNow().Mark != "" && !noted {
			noted = true
			closeSession(session)
			if !r.leaveAlone(ctx) {
				return nil
			}
			continue
		}
		// A broker that was started anew may have been configured anew. One that does not go
		// by client ids any more has our sessions still, and will find them when it does.
		r.incarnation.identity.again()
		err := r.incarnation.identity.check(ctx, r.incarnation.sink, r.delivery)
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

// watched is what a look at a new session has shown.
type watched int

const (
	nobody     watched = iota // it is there, and ours alone
	somebody                  // it was taken over
	brokerGone                // it ended with the broker, or the network
)

// watch looks at a session before anything is sent over it, where somebody else may be
// using it.
func (r *laneRunner) watch(ctx context.Context, session Session) watched {
	d := r.contest.watch(time.Now())
	if d == 0 {
		return nobody
	}
	witness := r.witness(ctx)
	if witness != nil {
		defer closeSession(witness)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return somebody
	case <-session.Done():
		if witness != nil && endsToo(witness) {
			r.contest.brokerGone()
			return brokerGone
		}
		return somebody
	case <-timer.C:
	}
	r.contest.quiet(time.Now())
	return nobody
}

// witness is a connection under a client id that nobody else has, and that leaves nothing
// behind; nil where the broker does not let it in. The prefix is that of CheckIdentity.
func (r *laneRunner) witness(ctx context.Context) Session {
	session, err := r.incarnation.sink.Connect(ctx, ConnectOptions{
		ClientID: "reactor-probe-" + rand.Text(), Delivery: AtMostOnce, Acks: func([]Ack) {},
	})
	if err != nil {
		return nil
	}
	return session
}

// endsToo reports whether a session has ended, or does within a moment.
func endsToo(s Session) bool {
	timer := time.NewTimer(time.Second / 2)
	defer timer.Stop()
	select {
	case <-s.Done():
		return true
	case <-timer.C:
		return false
	}
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

// discardSession says goodbye for good.
func discardSession(s Session) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Discard(ctx)
}
