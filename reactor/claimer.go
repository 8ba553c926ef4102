package reactor

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"
)

// claimer makes the claims of one lane, one at a time.
type claimer struct {
	lane     *lane
	pad      *launchpad
	source   Journal
	clock    *clock
	lead     *lead
	log      *slog.Logger
	stats    *counters
	due      <-chan due
	finished chan<- []int64
	again    func([]int64) // has ids looked at again
	delivery Delivery
	static   ShardSet
	rows     int
	failures ratelog.Limiter
}

// claimSlack covers what our clock is behind the database's, and rounding.
const claimSlack = 5 * time.Millisecond

// run claims until soft ends. A claim that is under way then is finished, at most
// until hard ends. It returns ErrLeaseLost if the lane is no longer ours.
func (c *claimer) run(soft, hard context.Context) error {
	var pause backoff
	for {
		lease, first, ok := c.lane.room(c.rows)
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
		err := c.claim(hard, lease, first, batch)
		switch {
		case err == nil:
			pause.reset()
			c.failures.OK(c.log, "claiming again")
		case errors.Is(err, ErrLeaseLost) || hard.Err() != nil:
			return err
		default:
			c.failures.Fail(c.log, slog.LevelWarn, "cannot claim; trying again", "jobs", len(batch.ids), "err", err)
			if !pause.sleep(soft) {
				return nil
			}
		}
	}
}

// claim takes a batch and puts what it got on the launch pad. All else will be
// looked at again.
func (c *claimer) claim(ctx context.Context, lease Lease, first Slot, wanted due) error {
	req := ClaimRequest{
		Lease: lease, Delivery: c.delivery, IDs: wanted.ids, Static: c.static, FirstSlot: first,
		// The lead may have changed since the batch left the wheel.
		Within: max(wanted.latest.Sub(c.clock.Now()), 2*c.lead.get()) + claimSlack,
	}
	rand.Read(req.Token[:]) // never fails, by its documentation
	begun := c.clock.local()
	batch, err := c.source.Claim(ctx, req)
	took := c.clock.local() - begun
	if err == nil && batch.At != 0 {
		c.clock.confirm(batch.At, begun, begun+took)
	}
	var unknown *UnknownError
	if errors.As(err, &unknown) {
		batch, err = c.resolve(ctx, req, unknown)
	}
	if err == nil {
		c.lead.observe(took)
		c.stats.claim.observe(took)
		c.stats.claimedJobs.Add(int64(len(batch.Jobs)))
	}
	if len(batch.Jobs) > 0 {
		c.pad.put(c.lane.admit(batch), batch.Jobs)
	}
	missing := without(wanted.ids, batch.Jobs)
	c.again(missing)
	select {
	case c.finished <- wanted.ids:
	case <-ctx.Done():
	}
	return err
}

// resolve finds out whether a claim was committed, for as long as it takes: until
// then its jobs are neither ours nor anybody's.
func (c *claimer) resolve(ctx context.Context, req ClaimRequest, why error) (Batch, error) {
	c.stats.unknown.Add(1)
	c.failures.Fail(c.log, slog.LevelWarn, "a claim's outcome is unknown; asking the journal", "err", why)
	var pause backoff
	for {
		batch, lease, ok, err := c.source.ResolveClaim(ctx, req)
		switch {
		case err == nil:
			c.lane.relet(lease)
			if !ok {
				return Batch{}, nil
			}
			return batch, nil
		case errors.Is(err, ErrLeaseLost):
			return Batch{}, err
		}
		c.failures.Fail(c.log, slog.LevelWarn, "cannot ask the journal; trying again", "err", err)
		if !pause.sleep(ctx) {
			return Batch{}, ctx.Err()
		}
	}
}

// without returns the ids that no job has.
func without(ids []int64, jobs []Job) []int64 {
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
