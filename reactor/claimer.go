package reactor

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/reactor/driver"
)

// claimer makes the claims of one lane, one at a time.
type claimer struct {
	lane     *lane
	pad      *launchpad
	source   driver.Journal
	clock    *clock
	lead     *lead
	log      *slog.Logger
	stats    *counters
	due      <-chan due
	finished chan<- []int64
	again    func([]int64) // has ids looked at again
	delivery Delivery
	static   driver.ShardSet
	rows     int
	failures ratelog.Limiter

	progress   *progress
	inHand     atomic.Int64 // DBTime: when the first of the jobs that are being claimed is due, or nothingDue
	quarantine *quarantine
	refused    ratelog.Limiter // about the jobs in it
}

// claimSlack covers what our clock is behind the database's, and rounding.
const claimSlack = 5 * time.Millisecond

// suspectsBudget is how long a claimer goes on trying jobs in quarantine before it looks
// after others again.
const suspectsBudget = 20 * time.Millisecond

// run claims until soft ends. A claim that is under way then is finished, at most
// until hard ends. It returns ErrLeaseLost if the lane is no longer ours.
func (c *claimer) run(soft, hard context.Context) error {
	var pause backoff
	for {
		_, _, _, ok := c.lane.room(c.rows)
		if !ok {
			select {
			case <-soft.Done():
				return nil
			case <-hard.Done():
				return nil
			case <-c.lane.capacity:
			}
			continue
		}
		var batch due
		select {
		case <-soft.Done():
			return nil
		case <-hard.Done():
			return nil
		case <-c.lane.capacity: // the session may have gone
			continue
		case batch = <-c.due:
		}
		err := c.take(soft, hard, batch)
		switch {
		case err == nil:
			pause.reset()
			c.failures.OK(c.log, "claiming again")
		case errors.Is(err, driver.ErrLeaseLost) || hard.Err() != nil:
			return err
		default:
			c.failures.Fail(c.log, slog.LevelWarn, "cannot claim; trying again", "jobs", len(batch.ids), "err", err)
			if !pause.sleep(soft) {
				return nil
			}
		}
	}
}

// take claims a batch. Whatever it did not get will be looked at again.
//
// That a claim has ended is said as long as there is a dispatcher to hear it, also where the
// lane is given up (hard): other lanes will not get jobs that it takes for being claimed.
func (c *claimer) take(soft, hard context.Context, batch due) error {
	c.inHand.Store(int64(batch.earliest))
	defer c.inHand.Store(int64(nothingDue))
	ids, suspects := c.quarantine.split(batch.ids)
	err := c.claim(hard, ids, batch.latest, c.quarantine.waits())
	for begun := time.Now(); len(suspects) > 0 && err == nil && time.Since(begun) < suspectsBudget; suspects = suspects[1:] {
		err = c.claim(hard, suspects[:1:1], batch.latest, true)
	}
	c.again(suspects)
	select {
	case c.finished <- batch.ids:
	case <-soft.Done():
	}
	return err
}

// claim takes jobs and puts what it got on the launch pad.
//
// One whose row cannot be claimed (a constraint, somebody's trigger, a damaged value) makes
// the whole statement fail. So that it does not hold up the others for longer than a few
// statements, the source sifts the batch, or it is halved until that job is alone. Where it was waiting that failed,
// for a lock that a trigger needs, or for a trigger that sleeps, the halves wait briefly.
func (c *claimer) claim(ctx context.Context, ids []int64, latest driver.DBTime, briefly bool) error {
	if len(ids) == 0 {
		return nil
	}
	lease, first, reach, ok := c.lane.room(len(ids))
	if !ok { // halves need no more room than the whole, but the session may have gone
		c.again(ids)
		return nil
	}
	req := driver.ClaimRequest{
		Lease: lease, QoS: c.delivery.QoS(), IDs: ids, Static: c.static, FirstSlot: first, Reach: reach, Bytes: maxClaimBytes,
		// The lead may have changed since the batch left the wheel.
		Within:  max(latest.Sub(c.clock.Now()), 2*c.lead.get()) + claimSlack,
		Briefly: briefly,
	}
	rand.Read(req.Token[:]) // never fails, by its documentation
	c.lane.claims(req.Token)
	begun := c.clock.local()
	batch, err := c.source.Claim(ctx, req)
	took := c.clock.local() - begun
	if err == nil && batch.At != 0 {
		c.clock.confirm(batch.At, begun, begun+took)
	}
	var (
		unknown *driver.UnknownError
		about   *driver.JobError
	)
	switch {
	case errors.As(err, &unknown):
		var happened bool
		batch, happened, err = c.resolve(ctx, req, unknown)
		if err == nil && !happened {
			return c.ended(ctx, ids, latest, briefly, unknown)
		}
	case errors.As(err, &about) && len(ids) == 1:
		c.setAside(ctx, []driver.BadJob{{ID: ids[0], Why: about}})
		return nil
	case errors.As(err, &about):
		briefly = briefly || about.Waited
		if rest := c.sift(ctx, ids); len(rest) < len(ids) {
			return c.claim(ctx, rest, latest, briefly)
		}
		return c.halves(ctx, ids, latest, briefly)
	}
	if err == nil {
		c.lead.observe(took)
		c.stats.claim.observe(took)
		c.stats.claimedJobs.Add(int64(len(batch.Jobs)))
		c.again(c.quarantine.free(ids))
	}
	if len(batch.Jobs) > 0 {
		c.progress.claimed.touch()
		c.pad.put(c.lane.admit(batch), 0, batch.Jobs)
	}
	c.again(without(ids, batch.Jobs))
	return err
}

// ended follows up on a claim that did not happen, as its session has ended. Mostly that is an
// outage, which is over by now. But it may have been a row that makes the server end it: then
// the others are to get through.
func (c *claimer) ended(ctx context.Context, ids []int64, latest driver.DBTime, briefly bool, why *driver.UnknownError) error {
	if len(ids) > 1 {
		return c.halves(ctx, ids, latest, briefly)
	}
	switch out, counts := c.quarantine.strike(ids[0]); {
	case out:
		c.setAside(ctx, []driver.BadJob{{ID: ids[0], Why: &driver.JobError{Reason: "the session ends each time: " + why.Err.Error(), Costly: true}}})
		return nil
	case counts:
		c.again(ids)
		return nil
	}
	c.again(ids)
	return why // with a pause
}

// halves claims the first half of some jobs, and then the other.
func (c *claimer) halves(ctx context.Context, ids []int64, latest driver.DBTime, briefly bool) error {
	half := len(ids) / 2
	if err := c.claim(ctx, ids[:half:half], latest, briefly); err != nil {
		c.again(ids[half:])
		return err
	}
	return c.claim(ctx, ids[half:], latest, briefly)
}

// fewJobs is how many are halved rather than sifted.
const fewJobs = 4

// sift sets aside those jobs that cannot be claimed, as far as the source can tell, and
// returns the others.
func (c *claimer) sift(ctx context.Context, ids []int64) []int64 {
	if len(ids) <= fewJobs {
		return ids
	}
	bad, err := c.source.Sift(ctx, ids)
	if err != nil {
		c.log.Debug("cannot sift jobs", "jobs", len(ids), "err", err)
		return ids
	}
	if len(bad) == 0 {
		return ids
	}
	c.setAside(ctx, bad)
	return slices.DeleteFunc(slices.Clone(ids), func(id int64) bool {
		return slices.ContainsFunc(bad, func(job driver.BadJob) bool { return job.ID == id })
	})
}

// setAside puts jobs into quarantine that cannot be claimed, and records why.
func (c *claimer) setAside(ctx context.Context, bad []driver.BadJob) {
	for i, job := range bad {
		why := *job.Why
		why.Reason = "cannot be claimed: " + why.Reason
		bad[i].Why = &why
		if c.quarantine.add(job.ID, &why, time.Now()) {
			c.stats.quarantined.Add(1)
		}
		c.refused.Fail(c.log, slog.LevelWarn, "a job cannot be claimed; it is tried again now and then, see reactor.failed_jobs", "job", job.ID, "err", why.Reason)
	}
	if err := c.source.Quarantine(ctx, bad); err != nil {
		c.log.Debug("cannot record jobs that cannot be claimed", "jobs", len(bad), "err", err)
	}
}

// resolve finds out whether a claim was committed, for as long as it takes: until
// then its jobs are neither ours nor anybody's.
func (c *claimer) resolve(ctx context.Context, req driver.ClaimRequest, why error) (batch driver.Batch, happened bool, err error) {
	c.stats.unknown.Add(1)
	c.failures.Fail(c.log, slog.LevelWarn, "a claim's outcome is unknown; asking the journal", "err", why)
	var pause backoff
	for {
		batch, lease, ok, err := c.source.ResolveClaim(ctx, req)
		switch {
		case err == nil:
			c.lane.relet(lease)
			return batch, ok, nil
		case errors.Is(err, driver.ErrLeaseLost):
			return driver.Batch{}, false, err
		}
		c.failures.Fail(c.log, slog.LevelWarn, "cannot ask the journal; trying again", "err", err)
		if !pause.sleep(ctx) {
			return driver.Batch{}, false, ctx.Err()
		}
	}
}

// without returns the ids that no job has.
func without(ids []int64, jobs []driver.Job) []int64 {
	if len(ids) == len(jobs) {
		return nil
	}
	got := make(map[int64]bool, len(jobs))
	for _, job := range jobs {
		got[job.ID] = true
	}
	var missing []int64
	for _, id := range ids {
		if !got[id] {
			missing = append(missing, id)
		}
	}
	return missing
}
