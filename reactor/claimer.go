package reactor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// claimer makes the claims of one lane, one at a time.
type claimer struct {
	lane        claimedLane
	capacity    <-chan struct{}                   // set when the lane may have room again, or none any more
	wake        func()                            // sets capacity
	admit       func(driver.Batch) *handoff.Batch // has the lane take what was claimed, and send it in time
	journal     claimJournal
	clock       *clock
	lead        *lead
	largeLead   *lead // of claims of large payloads
	log         *slog.Logger
	stats       *counters // written here, read by Stats alone
	progress    *progress
	traffic     *traffic
	budget      *budget
	urgent      <-chan due                            // for lanes that hold no bulk
	anyone      <-chan due                            // what none of those has taken
	bulk        <-chan due                            // for those that may take it
	finished    chan<- finished                       // batches whose claim has ended
	owe         func(n int)                           // announces to the loader how many ids again will bring
	again       func(ids []int64, from driver.DBTime) // asks the loader to look at ids again
	toLookAgain []int64                               // ids of the batch being claimed
	got         int                                   // jobs of the batch being claimed
	turns       *turns
	delivery    Delivery
	static      driver.ShardSet
	rows        int

	heavy      []heavy // owned by run
	quarantine *quarantine
	inHand     atomic.Int64    // nothingDue minus the earliest due time of the jobs being claimed; 0: none are
	failures   ratelog.Limiter // limits the log of failed claims
	bad        ratelog.Limiter // limits the log of jobs that cannot be claimed
	pulse      *pulse
}

// heavy is a batch that what is claimed now may have to wait for: of bulk, or one of many jobs.
type heavy struct {
	batch *handoff.Batch
	bulk  bool
}

// claimedLane is what a claimer needs of its lane.
type claimedLane interface {
	// room reports whether a claim of n jobs can be made, and with which slots and reach.
	room(n int) (lease driver.Lease, first driver.Slot, reach int, ok bool)
	// claims notes the token of the claim that is about to be made.
	claims(token [16]byte)
	// relet replaces the lease after ResolveClaim has raised its epoch.
	relet(lease driver.Lease)
	// able reports whether it can send.
	able() bool
	// holds reports whether what is claimed now may have to wait for the batch.
	holds(b *handoff.Batch) bool
}

// claimJournal is what a claimer needs of driver.Journal.
type claimJournal interface {
	Claim(ctx context.Context, req driver.ClaimRequest) (driver.Batch, error)
	ResolveClaim(ctx context.Context, req driver.ClaimRequest) (batch driver.Batch, lease driver.Lease, ok bool, err error)
	Sift(ctx context.Context, ids []int64) ([]driver.BadJob, error)
	Quarantine(ctx context.Context, jobs []driver.BadJob) error
}

// claimSlack covers rounding, and how far our clock may be behind the database's.
const claimSlack = 5 * time.Millisecond

// retryBudget is how long a claimer goes on trying jobs in quarantine, one by one, before it
// looks after others again.
const retryBudget = 20 * time.Millisecond

// run claims until soft ends. A claim that is under way then is finished, at most
// until hard ends. It returns ErrLeaseLost if the lane is no longer ours.
func (c *claimer) run(soft, hard context.Context) error {
	var pause wait.Backoff
	c.pulse.begin()
	defer c.pulse.end()
	c.traffic.enter(c)
	defer c.traffic.leave(c)
	for {
		urgent, anyone, bulk := c.takes()
		var batch due
		c.pulse.rest()
		select {
		case <-soft.Done():
			return nil
		case <-hard.Done():
			return nil
		case <-c.capacity: // there is room, or the session has gone, or other lanes have
			continue
		case batch = <-urgent:
		case batch = <-anyone:
		case batch = <-bulk:
		}
		c.pulse.work()
		err := c.take(soft, hard, batch)
		switch {
		case err == nil:
			pause.Reset()
			c.failures.OK(c.log, "claiming again")
		case errors.Is(err, driver.ErrLeaseLost) || hard.Err() != nil:
			return err
		default:
			c.failures.Fail(c.log, slog.LevelWarn, "cannot claim; trying again", "jobs", len(batch.ids), "err", err)
			if !pause.Sleep(soft) {
				return nil
			}
		}
	}
}

// takes returns the channels from which to take a batch now.
func (c *claimer) takes() (urgent, anyone, bulk <-chan due) {
	c.heavy = slices.DeleteFunc(c.heavy, func(h heavy) bool { return !c.lane.holds(h.batch) })
	held := 0 // of bulk
	for _, h := range c.heavy {
		if h.bulk {
			held++
		}
	}
	may := c.traffic.ask(c, c.lane.able(), held > 0)
	if _, _, _, ok := c.lane.room(c.rows); !ok {
		return nil, nil, nil
	}
	if !may.bulk {
		if len(c.heavy) >= mostHeavyFree {
			return nil, nil, nil
		}
		return c.urgent, c.anyone, nil
	}
	if !may.alone || held < mostHeavyAlone {
		bulk = c.bulk
	}
	if held == 0 || may.alone {
		urgent = c.urgent
	}
	return urgent, c.anyone, bulk
}

// mostHeavyFree is how many batches that weigh something the lane holds at once that is kept free of
// bulk: of the full ones, when a crowd falls due at one instant. What is due next is not to wait for
// all that a lane takes, and while one is being sent, the next claim is made.
const mostHeavyFree = 2

// mostHeavyAlone is how many batches of bulk a lane holds at once that has to take what is due
// now as well: enough to keep the broker busy while the next claim is made.
const mostHeavyAlone = 3

// oldestDue implements stage: the batch that is being claimed.
func (c *claimer) oldestDue() driver.DBTime { return nothingDue - driver.DBTime(c.inHand.Load()) }

// take claims a batch. Jobs that it did not get are looked at again.
//
// take tells the dispatcher that the claim has ended as long as the dispatcher runs, even when
// the lane is given up (hard). Otherwise the dispatcher would take the jobs for being claimed,
// and never hand them to another lane.
func (c *claimer) take(soft, hard context.Context, batch due) error {
	c.inHand.Store(int64(nothingDue - batch.earliest))
	defer c.inHand.Store(0)
	defer c.budget.release(batch)
	together, alone := c.quarantine.split(batch.ids)
	err := c.claim(hard, claim{together, batch.from, batch.latest, c.quarantine.waits(), batch.bulk, batch.large})
	for begun := time.Now(); len(alone) > 0 && err == nil && time.Since(begun) < retryBudget; alone = alone[1:] {
		err = c.claim(hard, claim{alone[:1:1], batch.from, batch.latest, true, batch.bulk, batch.large})
	}
	c.lookAgain(alone)
	c.owe(len(c.toLookAgain))
	select {
	case c.finished <- finished{batch.ids, min(batch.paced, len(batch.ids)-c.got)}:
	case <-soft.Done():
	}
	// Only after finished: the dispatcher drops loaded jobs that it takes for being claimed.
	c.again(c.toLookAgain, batch.from)
	c.toLookAgain, c.got = nil, 0
	return err
}

// lookAgain has the jobs looked at again once the batch is finished.
func (c *claimer) lookAgain(ids []int64) { c.toLookAgain = append(c.toLookAgain, ids...) }

// claim is a set of jobs that one statement tries to claim.
type claim struct {
	ids     []int64
	from    driver.DBTime // the first of their fire_at, or earlier
	latest  driver.DBTime // the last of their due times
	briefly bool          // see driver.ClaimRequest
	bulk    bool          // see due, as the next
	large   bool
}

// of returns the claim reduced to some of its jobs.
func (c claim) of(ids []int64) claim { return claim{ids, c.from, c.latest, c.briefly, c.bulk, c.large} }

// claim claims jobs and hands those that it got to the lane.
//
// A job whose row cannot be claimed (a constraint, somebody's trigger, a damaged value) makes
// the whole statement fail. So that such a job delays the others by a few statements only, the
// source sifts the batch, or the batch is halved until that job is alone. If the statement
// failed because it had waited, for a lock that a trigger needs or for a trigger that sleeps,
// the halves wait briefly only.
func (c *claimer) claim(ctx context.Context, jobs claim) error {
	if len(jobs.ids) == 0 {
		return nil
	}
	lease, first, reach, ok := c.lane.room(len(jobs.ids))
	if !ok { // halves need no more room than the whole, but the session may have ended
		c.lookAgain(jobs.ids)
		return nil
	}
	lead := c.lead
	if jobs.large {
		lead = c.largeLead
	}
	req := driver.ClaimRequest{
		Lease: lease, QoS: c.delivery.QoS(), IDs: jobs.ids, From: jobs.from, To: jobs.latest, Static: c.static, FirstSlot: first, Reach: reach, Bytes: maxClaimBytes,
		// The lead may have changed since the batch left the wheel.
		Within:  max(jobs.latest.Sub(c.clock.Now()), lead.reach()) + claimSlack,
		Briefly: jobs.briefly,
	}
	req.Token = driver.NewToken()
	c.lane.claims(req.Token)
	// When it has ended, the lane knows the batch, or the claim did not happen. Later it may have been settled, and a
	// failover may have lost that.
	defer c.lane.claims([16]byte{})
	c.pulse.work()
	begun := c.clock.local()
	batch, err := c.journal.Claim(ctx, req)
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
			return c.sessionEnded(ctx, jobs, unknown)
		}
	case errors.As(err, &about) && len(jobs.ids) == 1:
		c.setAside(ctx, []driver.BadJob{{ID: jobs.ids[0], Why: about}})
		return nil
	case errors.As(err, &about):
		jobs.briefly = jobs.briefly || about.Waited
		if rest := c.sift(ctx, jobs.ids); len(rest) < len(jobs.ids) {
			return c.claim(ctx, jobs.of(rest))
		}
		return c.halves(ctx, jobs)
	}
	if err == nil {
		if jobs.large || !jobs.bulk {
			lead.observe(took) // what is overdue needs none, and its claims take longer
		}
		c.stats.claim.observe(took)
		c.stats.claimSizes.observe(len(batch.Jobs))
		c.stats.claimedJobs.Add(int64(len(batch.Jobs)))
		c.lookAgain(c.quarantine.free(jobs.ids))
		c.stats.missed.Add(int64(batch.Missed))
		c.stats.failed.Add(int64(batch.Missed))
		c.turns.pass(batch.Keys)
	}
	if len(batch.Jobs) > 0 {
		c.progress.claimed.touch()
		c.got += len(batch.Jobs)
		if b := c.admit(batch); jobs.bulk || len(batch.Jobs) >= c.rows/2 {
			c.heavy = append(c.heavy, heavy{b, jobs.bulk})
		}
	}
	rest := without(jobs.ids, batch.Jobs)
	if batch.Mixed && err == nil {
		return c.claim(ctx, jobs.of(rest)) // what is left is of a lower QoS
	}
	c.lookAgain(rest)
	return err
}

// sessionEnded handles a claim that did not happen because its database session ended. Usually
// the cause is an outage, which is over by now. But a row may make the server end the session:
// then the other jobs must still be claimed.
func (c *claimer) sessionEnded(ctx context.Context, jobs claim, why *driver.UnknownError) error {
	if len(jobs.ids) > 1 {
		return c.halves(ctx, jobs)
	}
	id := jobs.ids[0]
	blamed, counts := c.quarantine.sessionEnded(id)
	if blamed {
		c.setAside(ctx, []driver.BadJob{{ID: id, Why: &driver.JobError{Reason: "the session ends each time: " + why.Err.Error(), Costly: true}}})
		return nil
	}
	c.lookAgain(jobs.ids)
	if counts {
		return nil
	}
	return why // with a pause
}

// halves claims the first half of the jobs, then the second.
func (c *claimer) halves(ctx context.Context, jobs claim) error {
	half := len(jobs.ids) / 2
	if err := c.claim(ctx, jobs.of(jobs.ids[:half:half])); err != nil {
		c.lookAgain(jobs.ids[half:])
		return err
	}
	return c.claim(ctx, jobs.of(jobs.ids[half:]))
}

// fewJobs is up to how many jobs a batch is halved rather than sifted.
const fewJobs = 4

// sift sets aside those jobs that cannot be claimed, as far as the source can tell, and
// returns the others.
func (c *claimer) sift(ctx context.Context, ids []int64) []int64 {
	if len(ids) <= fewJobs {
		return ids
	}
	bad, err := c.journal.Sift(ctx, ids)
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
		c.bad.Fail(c.log, slog.LevelWarn, "a job cannot be claimed; it is tried again now and then, see reactor.failed_jobs", "job", job.ID, "err", why.Reason)
	}
	if err := c.journal.Quarantine(ctx, bad); err != nil {
		c.log.Debug("cannot record jobs that cannot be claimed", "jobs", len(bad), "err", err)
	}
}

// resolve finds out whether a claim was committed, and tries for as long as it takes: until
// then we don't know whether its jobs are ours.
func (c *claimer) resolve(ctx context.Context, req driver.ClaimRequest, why error) (batch driver.Batch, happened bool, err error) {
	c.stats.unknown.Add(1)
	c.failures.Fail(c.log, slog.LevelWarn, "a claim's outcome is unknown; asking the journal", "err", why)
	var pause wait.Backoff
	for {
		c.pulse.work()
		batch, lease, ok, err := c.journal.ResolveClaim(ctx, req)
		switch {
		case err == nil:
			c.lane.relet(lease)
			return batch, ok, nil
		case errors.Is(err, driver.ErrLeaseLost):
			return driver.Batch{}, false, err
		}
		c.failures.Fail(c.log, slog.LevelWarn, "cannot ask the journal; trying again", "err", err)
		if !pause.Sleep(ctx) {
			return driver.Batch{}, false, ctx.Err()
		}
	}
}

// without returns the ids that belong to none of the jobs.
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
