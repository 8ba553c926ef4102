package reactor

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// fakeLane is a lane whose room the test sets.
type fakeLane struct {
	rooms    atomic.Int32 // how many more calls find room; negative: all
	lease    driver.Lease
	announce [][16]byte // tokens that were noted
	unable   atomic.Bool
	burden   atomic.Bool // whatever was claimed is held
}

func (l *fakeLane) able() bool                { return !l.unable.Load() }
func (l *fakeLane) holds(*handoff.Batch) bool { return l.burden.Load() }

func (l *fakeLane) room(int) (driver.Lease, driver.Slot, int, bool) {
	if l.rooms.Load() == 0 {
		return l.lease, 0, 0, false
	}
	l.rooms.Add(-1)
	return l.lease, 7, 128, true
}
func (l *fakeLane) claims(token [16]byte)    { l.announce = append(l.announce, token) }
func (l *fakeLane) relet(lease driver.Lease) { l.lease = lease }

// claiming is a running claimer with its fakes.
type claiming struct {
	*testing.T
	*claimer
	lane     *fakeLane
	journal  *fakeJournal
	capacity wait.Signal
	due      chan due // urgent
	anyone   chan due
	bulk     chan due
	finished chan finished
	again    []int64 // looked at again
	owed     int     // how many of them were announced to the loader
	admitted []int64
	stop     func() // ends soft
	abandon  func() // ends hard
	err      error  // of run, once done is closed
	done     chan struct{}
}

func claimed(t *testing.T, journal *fakeJournal, test func(c *claiming)) {
	synctest.Test(t, func(t *testing.T) {
		c := &claiming{
			T: t, lane: &fakeLane{lease: driver.Lease{Lane: 3, Epoch: 1}}, journal: journal, capacity: wait.NewSignal(),
			due: make(chan due), anyone: make(chan due), bulk: make(chan due), finished: make(chan finished), done: make(chan struct{}),
		}
		c.claimer = &claimer{
			lane: c.lane, capacity: c.capacity, journal: journal, clock: testClock(), lead: newLead(), largeLead: newLead(), log: discard(),
			stats: &counters{}, progress: &progress{}, traffic: &traffic{}, urgent: c.due, anyone: c.anyone, bulk: c.bulk, finished: c.finished,
			owe:   func(n int) { c.owed += n },
			turns: newTurns(journal, nil, discard()),
			again: func(ids []int64, _ driver.DBTime) { c.again = append(c.again, ids...) },
			admit: func(b driver.Batch) *handoff.Batch {
				for _, job := range b.Jobs {
					c.admitted = append(c.admitted, job.ID)
				}
				return nil
			},
			delivery: ExactlyOnce, rows: 100, quarantine: &quarantine{},
		}
		c.lane.rooms.Store(-1)
		soft, stop := context.WithCancel(t.Context())
		hard, abandon := context.WithCancel(t.Context())
		c.stop, c.abandon = stop, abandon
		go func() {
			defer close(c.done)
			c.err = c.run(soft, hard)
		}()
		test(c)
		stop()
		abandon()
		<-c.done
	})
}

// offer has a batch claimed, waits until the claim has ended, and checks that the dispatcher is
// told.
func (c *claiming) offer(ids ...int64) {
	c.Helper()
	c.due <- due{ids: ids, earliest: c.clock.Now(), latest: c.clock.Now()}
	if ended := <-c.finished; !slices.Equal(ended.ids, ids) {
		c.Errorf("the claims of %v are reported to have ended, want %v", ended, ids)
	}
	owed := c.owed
	synctest.Wait()
	if owed != len(c.again) {
		c.Errorf("%d ids are owed when the claim ends, and %d are looked at again", owed, len(c.again))
	}
}

// got checks which jobs were admitted and which are looked at again, since the last call.
func (c *claiming) got(what string, admitted, again []int64) {
	c.Helper()
	slices.Sort(c.admitted)
	slices.Sort(c.again)
	if !slices.Equal(c.admitted, admitted) || !slices.Equal(c.again, again) {
		c.Errorf("%s: %v are admitted and %v looked at again, want %v and %v", what, c.admitted, c.again, admitted, again)
	}
	c.admitted, c.again, c.owed = nil, nil, 0
}

// claimedIDs returns the ids of the claims that were made since the last call.
func (c *claiming) claimedIDs() (list [][]int64) {
	for _, req := range c.journal.claims {
		list = append(list, req.IDs)
	}
	c.journal.claims = nil
	return list
}

// without5 is the answer to a claim that does not get job 5: somebody has locked its row.
func without5(_ context.Context, req driver.ClaimRequest) (driver.Batch, error) {
	req.IDs = slices.DeleteFunc(slices.Clone(req.IDs), func(id int64) bool { return id == 5 })
	return claimAll(req), nil
}

// TestClaim: the lane is told the token before the claim is made, and its end after it, gets what was claimed, and the
// rest is looked at again.
func TestClaim(t *testing.T) {
	claimed(t, &fakeJournal{claim: without5}, func(c *claiming) {
		c.offer(4, 5, 6)
		c.got("a claim", []int64{4, 6}, []int64{5})
		req := c.journal.claims[0]
		if len(c.lane.announce) != 2 || c.lane.announce[0] != req.Token || req.Token == [16]byte{} {
			c.Errorf("the token %x, and the lane knows %x", req.Token, c.lane.announce)
		} else if c.lane.announce[1] != [16]byte{} {
			c.Error("the lane is not told that the claim has ended: if the batch is settled, and a failover loses that, the batch is taken for known")
		}
		if req.Lease != c.lane.lease || req.FirstSlot != 7 || req.Reach != 128 || req.QoS != 2 || req.Briefly || req.Within < 2*c.lead.get() {
			c.Errorf("the request is %+v", req)
		}
		if c.oldestDue() != nothingDue {
			c.Error("oldestDue counts a job though no claim is under way")
		}
	})
}

// TestClaimTellsWhatWasNotClaimed: of a batch that was counted as caught up, what was not claimed is told.
func TestClaimTellsWhatWasNotClaimed(t *testing.T) {
	claimed(t, &fakeJournal{claim: without5}, func(c *claiming) {
		for paced, want := range map[int]int{0: 0, 3: 1} {
			c.due <- due{ids: []int64{4, 5, 6}, paced: paced, earliest: c.clock.Now(), latest: c.clock.Now()}
			if ended := <-c.finished; ended.unpaid != want {
				c.Errorf("of %d jobs that were counted, and 1 that was not claimed, %d are given back, want %d", paced, ended.unpaid, want)
			}
		}
	})
}

// TestNoRoom: no batch is taken while the lane has no room, and a batch that was taken goes
// back if the room has gone meanwhile.
func TestNoRoom(t *testing.T) {
	claimed(t, &fakeJournal{}, func(c *claiming) {
		c.lane.rooms.Store(0)
		c.capacity.Set() // look
		synctest.Wait()
		select {
		case c.due <- due{ids: []int64{1}}:
			c.Fatal("a batch was taken without room for it")
		default:
		}
		c.lane.rooms.Store(1) // the session ends after that
		c.capacity.Set()
		c.offer(1, 2)
		c.got("the session has gone", nil, []int64{1, 2})
		if n := len(c.journal.claims); n != 0 {
			c.Errorf("%d claims", n)
		}
	})
}

// unknown is the error of a claim whose outcome is unknown.
func unknown(context.Context, driver.ClaimRequest) (driver.Batch, error) {
	return driver.Batch{}, &driver.UnknownError{Err: errAway}
}

// TestUnknownOutcome: the journal is asked until it answers, for the same claim, and its answer is
// what counts; the lane goes on with the raised lease.
func TestUnknownOutcome(t *testing.T) {
	tries := 0
	journal := &fakeJournal{claim: unknown}
	journal.resolve = func(req driver.ClaimRequest) (driver.Batch, driver.Lease, bool, error) {
		if tries++; tries < 5 {
			return driver.Batch{}, driver.Lease{}, false, errAway
		}
		req.Lease.Epoch++
		return claimAll(req), req.Lease, true, nil
	}
	claimed(t, journal, func(c *claiming) {
		c.offer(1, 2)
		c.got("it has happened", []int64{1, 2}, nil)
		for _, req := range journal.resolved {
			if req.Token != journal.claims[0].Token || !slices.Equal(req.IDs, []int64{1, 2}) {
				c.Errorf("asked for %+v", req)
			}
		}
		if len(journal.claims) != 1 || tries != 5 || c.lane.lease.Epoch != 2 {
			c.Errorf("%d claims, %d questions, the lease is %+v", len(journal.claims), tries, c.lane.lease)
		}
	})
}

// TestClaimThatDidNotHappen: the claim's session has ended, perhaps because of a row. The jobs
// are claimed by halves. A job is set aside if sessions end with it again and again, while
// claims of other jobs succeed.
func TestClaimThatDidNotHappen(t *testing.T) {
	journal := &fakeJournal{
		claim: func(ctx context.Context, req driver.ClaimRequest) (driver.Batch, error) {
			if slices.Contains(req.IDs, 5) {
				return unknown(ctx, req)
			}
			return claimAll(req), nil
		},
		resolve: func(req driver.ClaimRequest) (driver.Batch, driver.Lease, bool, error) {
			return driver.Batch{}, req.Lease, false, nil
		},
	}
	claimed(t, journal, func(c *claiming) {
		for range enoughEndings - 1 {
			c.offer(4, 5, 6, 7)
			c.got("the others get through", []int64{4, 6, 7}, []int64{5})
		}
		c.offer(4, 5, 6, 7)
		c.got("it is set aside", []int64{4, 6, 7}, nil)
		if q := journal.quarantined; len(q) != 1 || q[0].ID != 5 || !q[0].Why.Costly || c.quarantine.len() != 1 {
			c.Errorf("in quarantine are %+v", q)
		}
		// No job is to blame for an outage.
		begun := time.Now()
		journal.claim = unknown
		for range 10 {
			c.offer(8)
		}
		if c.quarantine.len() != 1 || time.Since(begun) < wait.MinBackoff {
			c.Errorf("%d in quarantine after %v", c.quarantine.len(), time.Since(begun))
		}
	})
}

// bad fails the claims of some jobs because of their rows.
func bad(ids ...int64) func(context.Context, driver.ClaimRequest) (driver.Batch, error) {
	return func(_ context.Context, req driver.ClaimRequest) (driver.Batch, error) {
		for _, id := range req.IDs {
			if slices.Contains(ids, id) {
				return driver.Batch{}, &driver.JobError{Reason: "a constraint", Waited: true, Err: errors.New("a constraint")}
			}
		}
		return claimAll(req), nil
	}
}

// TestBadRows: where the source cannot tell which it is, the batch is halved until the job is
// alone; the others are claimed, and the halves of a claim that has waited wait only briefly.
func TestBadRows(t *testing.T) {
	claimed(t, &fakeJournal{claim: bad(11)}, func(c *claiming) {
		c.offer(count(8, 8)...)
		c.got("all but one", []int64{8, 9, 10, 12, 13, 14, 15}, nil)
		want := [][]int64{count(8, 8), count(8, 4), {8, 9}, {10, 11}, {10}, {11}, count(12, 4)}
		for i, req := range c.journal.claims {
			if req.Briefly != (i > 0) {
				c.Errorf("claim %d: briefly: %v", i, req.Briefly)
			}
		}
		if list := c.claimedIDs(); !slices.EqualFunc(list, want, slices.Equal) {
			c.Errorf("claims of %v, want %v", list, want)
		}
		if q := c.journal.quarantined; len(q) != 1 || q[0].ID != 11 || q[0].Why.Reason != "cannot be claimed: a constraint" {
			c.Errorf("recorded are %+v", q)
		}
		if c.stats.quarantined.Load() != 1 {
			c.Error("the job in quarantine is not counted")
		}
		// From then on the job is left out, and tried alone when it is time.
		c.offer(10, 11)
		c.got("left out", []int64{10}, nil)
		time.Sleep(2 * lastProbe)
		c.quarantine.holds(11, time.Now()) // the loader lets it through
		c.claimedIDs()
		c.journal.claim = nil // mended
		c.offer(10, 11)
		c.got("mended", []int64{10, 11}, nil)
		if list := c.claimedIDs(); !slices.EqualFunc(list, [][]int64{{10}, {11}}, slices.Equal) || c.quarantine.len() != 0 {
			c.Errorf("claims of %v, %d in quarantine", list, c.quarantine.len())
		}
	})
}

// TestSift: if the source can tell which jobs cannot be claimed, the others are claimed at
// once.
func TestSift(t *testing.T) {
	journal := &fakeJournal{claim: bad(9, 11), sift: func([]int64) ([]driver.BadJob, error) {
		return []driver.BadJob{{ID: 9, Why: &driver.JobError{Reason: "a"}}, {ID: 11, Why: &driver.JobError{Reason: "b"}}}, nil
	}}
	claimed(t, journal, func(c *claiming) {
		c.offer(count(8, 8)...)
		c.got("the others", []int64{8, 10, 12, 13, 14, 15}, nil)
		if len(journal.claims) != 2 || len(journal.quarantined) != 2 {
			c.Errorf("%d claims, %d recorded", len(journal.claims), len(journal.quarantined))
		}
		journal.sift = func([]int64) ([]driver.BadJob, error) { return nil, errAway }
		journal.claim = bad(20)
		c.offer(count(20, 8)...)
		c.got("halved", count(21, 7), nil)
	})
}

// TestLeaseLost: the claimer ends, returns why, and tells the dispatcher that the claim has
// ended, as other lanes don't get the jobs before that.
func TestLeaseLost(t *testing.T) {
	journal := &fakeJournal{claim: func(context.Context, driver.ClaimRequest) (driver.Batch, error) {
		return driver.Batch{}, driver.ErrLeaseLost
	}}
	claimed(t, journal, func(c *claiming) {
		c.offer(1, 2)
		c.got("the lease is lost", nil, []int64{1, 2})
		<-c.done
		if !errors.Is(c.err, driver.ErrLeaseLost) {
			c.Errorf("the claimer ended with %v", c.err)
		}
	})
}

// TestNothingIsForgotten: if the claim of a part of a batch fails, the rest is looked at again
// as well: the other half, and jobs in quarantine whose turn it was.
func TestNothingIsForgotten(t *testing.T) {
	claimed(t, &fakeJournal{}, func(c *claiming) {
		c.journal.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.Batch, error) {
			if len(c.journal.claims) > 1 {
				return driver.Batch{}, errAway
			}
			return bad(1)(ctx, req)
		}
		c.offer(1, 2, 3, 4)
		c.got("halves", nil, []int64{1, 2, 3, 4})
		for _, id := range []int64{8, 9} {
			c.quarantine.add(id, &driver.JobError{Reason: string(rune('a' + id))}, time.Now())
		}
		time.Sleep(lastProbe)
		for _, id := range []int64{8, 9} {
			c.quarantine.holds(id, time.Now())
			time.Sleep(betweenProbes)
		}
		c.offer(7, 8, 9)
		c.got("with two in quarantine", nil, []int64{7, 8, 9})
	})
}

// TestFailedClaimsPause: after an error that no row causes, claims are tried again, with
// growing pauses.
func TestFailedClaimsPause(t *testing.T) {
	journal := &fakeJournal{claim: func(context.Context, driver.ClaimRequest) (driver.Batch, error) { return driver.Batch{}, errAway }}
	claimed(t, journal, func(c *claiming) {
		begun := time.Now()
		for range 8 {
			c.offer(1)
		}
		if took := time.Since(begun); took < 3*time.Second || took > 10*time.Second {
			c.Errorf("eight claims that fail take %v", took)
		}
		if n := len(c.again); n != 8 {
			c.Errorf("looked at again %d times", n)
		}
	})
}

// TestClaimUnderWay: a stop lets a claim finish, and what it got is admitted; giving the lane up ends it.
func TestClaimUnderWay(t *testing.T) {
	slow := &fakeJournal{claim: func(ctx context.Context, req driver.ClaimRequest) (driver.Batch, error) {
		if !wait.Sleep(ctx, time.Second) {
			return driver.Batch{}, ctx.Err()
		}
		return claimAll(req), nil
	}}
	claimed(t, slow, func(c *claiming) {
		at := c.clock.Now()
		c.due <- due{ids: []int64{1}, earliest: at, latest: at}
		synctest.Wait()
		if c.oldestDue() != at {
			c.Errorf("oldestDue is %v", c.oldestDue())
		}
		c.stop()
		<-c.done
		c.got("stopped", []int64{1}, nil)
		if c.err != nil {
			c.Error(c.err)
		}
	})
	claimed(t, slow, func(c *claiming) {
		c.due <- due{ids: []int64{1}}
		synctest.Wait()
		c.abandon()
		synctest.Wait() // the dispatcher is busy
		if ended := <-c.finished; !slices.Equal(ended.ids, []int64{1}) {
			c.Errorf("told that %v have ended", ended)
		}
		<-c.done
		c.got("given up", nil, []int64{1})
	})
}
