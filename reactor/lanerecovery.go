package reactor

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// recover takes over what the journal holds for this lane, and returns the session to go on
// with.
//
// At QoS 2, the session that the journal is about is kept if the broker still has it and a
// batch depends on it; otherwise a new session begins. A broker may hold messages that the
// journal knows nothing of, for example after a failover that lost commits. In an old session
// it would take new messages in the same slots for repetitions, and drop them.
func (r *laneRunner) recover(hard context.Context, session driver.Session) (driver.Session, error) {
	r.readsJournal.Store(true)
	batches, err := r.readJournalInBudget(hard)
	if err != nil {
		closeSession(session)
		return nil, err
	}
	batches, ended := handoff.Superseded(batches)
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
		if lost && anyQoS2(batches) {
			r.log.Warn("the broker has no session of a lane whose last owner left messages on their way; what becomes of those is unknown", "client_id", r.clientID, "policy", r.onLoss)
		}
		// The machine gets the batches once the journal has begun the round, and not a second
		// time if the journal has to note another mark.
		round, taken := newRound(), false
		return r.beginSession(hard, session, anyQoS2(batches), func(mark string) error {
			err := r.journal.Reopen(hard, r.lane.leaseNow(), round, mark)
			if err == nil && !taken {
				taken = true
				for i := range batches {
					if batches[i].QoS == 2 {
						batches[i].Round = round
					}
				}
				r.takeIn(batches, lost)
			}
			return err
		})
	}
	r.takeIn(batches, lost)
	return session, nil
}

// takeIn passes what an earlier owner left to the machine. Jobs that are due later wait on the
// launch pad.
func (r *laneRunner) takeIn(batches []driver.Batch, lost bool) {
	if len(batches) > 0 {
		jobs := 0
		for _, b := range batches {
			jobs += len(b.Jobs)
		}
		r.stats.recovered.Add(int64(jobs))
		r.log.Warn("recovering what an earlier owner of the lane left unsettled", "lane", r.lane.leaseNow().Lane, "jobs", jobs)
	}
	for _, w := range r.lane.recovered(batches, lost) {
		r.pad.put(w.Batch, w.Place, []driver.Job{w.Job})
		r.latest = max(r.latest, w.Job.FireAt)
	}
}

// leastFarAhead is how far in the future recovered jobs may be due in a lane that also claims.
const leastFarAhead = time.Second

// noteFarAhead reports, and notes, whether the lane must not claim because its recovered jobs
// are due much later, for example after the database's clock was set back. These jobs keep the
// lane's first slots until then, and jobs claimed behind them would soon be beyond the reach.
// The instance leases another lane instead. A lane that would not claim anyway does not count
// among the wanted lanes either.
func (r *laneRunner) noteFarAhead() bool {
	if r.latest.Sub(r.clock.Now()) < leastFarAhead {
		return false
	}
	r.farAhead.Store(true)
	r.lane.leaveBudget() // else the others would have to do without for as long
	r.leases.beatSoon()
	return true
}

// settleEnded removes batches from the journal that had ended earlier.
func (r *laneRunner) settleEnded(hard context.Context, ended []driver.Batch) error {
	settlements := make([]driver.Settlement, 0, len(ended))
	for _, b := range ended {
		n := len(b.Jobs)
		settlements = append(settlements, driver.Settlement{
			BatchID: b.ID, Round: b.Round, Token: b.Token, Lease: r.lane.leaseNow(), Jobs: n, Kept: n, Concluded: n, Done: true,
		})
	}
	var pause wait.Backoff
	for len(settlements) > 0 {
		_, err := r.journal.Settle(hard, settlements)
		if err == nil {
			r.log.Warn("the journal lists messages again that had left it: did a failover lose the last commits?", "lane", r.lane.leaseNow().Lane, "batches", len(settlements))
			return nil
		}
		r.failures.Fail(r.log, slog.LevelWarn, "cannot settle; trying again", "err", err)
		if !pause.Sleep(hard) {
			return hard.Err()
		}
	}
	return nil
}

func anyQoS2(batches []driver.Batch) bool {
	for _, b := range batches {
		if b.QoS == 2 {
			return true
		}
	}
	return false
}

// readJournalInBudget is readJournal as soon as there is memory for what it brings. A lane that
// was abandoned may hold as much as its owner's budget, and we may be to recover several at once: one
// is read when another has been sent. Between the two statements the lane's journal does not grow:
// it is ours, and we do not claim.
//
// What it has reserved is given back when the lane has been taken in, or given up.
func (r *laneRunner) readJournalInBudget(ctx context.Context) ([]driver.Batch, error) {
	unsettled, err := r.readUnsettled(ctx)
	if err != nil {
		return nil, err
	}
	small, large := 0, 0
	for _, b := range unsettled {
		small, large = small+b.SmallBytes, large+b.LargeBytes
	}
	release := r.budget.await(ctx, small, large)
	if release == nil {
		return nil, context.Cause(ctx)
	}
	r.recovered = release
	return r.readJournal(ctx)
}

// recoveryTakenIn gives back what the recovery has reserved: the lane counts for itself, or is
// given up.
func (r *laneRunner) recoveryTakenIn() {
	if r.recovered != nil {
		r.recovered()
		r.recovered = nil
	}
}

// readUnsettled returns which batches are unsettled.
func (r *laneRunner) readUnsettled(ctx context.Context) (unsettled []driver.Unsettled, err error) {
	err = r.insist(ctx, func(lease driver.Lease) error {
		unsettled, err = r.journal.Unsettled(ctx, lease, handoff.LargePayload)
		return err
	})
	return unsettled, err
}

// readJournal returns what is unsettled.
func (r *laneRunner) readJournal(ctx context.Context) (batches []driver.Batch, err error) {
	err = r.insist(ctx, func(lease driver.Lease) error {
		batches, err = r.journal.Recover(ctx, lease)
		return err
	})
	return batches, err
}

// insist reads the journal until that succeeds, or the lane is not ours.
func (r *laneRunner) insist(hard context.Context, read func(driver.Lease) error) error {
	var pause wait.Backoff
	for {
		lease := r.lane.leaseNow()
		err := read(lease)
		if err == nil || errors.Is(err, driver.ErrLeaseLost) || hard.Err() != nil {
			return err
		}
		r.failures.Fail(r.log, slog.LevelWarn, "cannot recover; trying again", "lane", lease.Lane, "err", err)
		if !pause.Sleep(hard) {
			return hard.Err()
		}
	}
}
