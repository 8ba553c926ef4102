package load

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// Tests of the loader's promises, in its simulation: a job that was announced is in memory at
// its time, and one that was not, a loop later at most.

const (
	// onTime allows for the delay of the hint, one or two reads, and the ticks of the
	// simulation.
	onTime = 25 * time.Millisecond
	// aLoop is the documented bound for what nobody has announced: a loop, its jitter of a
	// twentieth on average and a tenth at most, and the reads.
	aLoop = simLoop*11/10 + onTime
)

// TestHintsDoNotStarveTheScan: a dead peer's overdue jobs are loaded at once, whatever is
// announced meanwhile.
func TestHintsDoNotStarveTheScan(t *testing.T) {
	simulate(t, Config{}, func(s *sim) {
		s.own(driver.StaticShards(2, 0))
		time.Sleep(simLoop)
		orphans := s.ids(10_000)
		died := s.sinceStart()
		s.insert(false, orphans, in(-time.Second))
		orphans = slices.DeleteFunc(orphans, func(id int64) bool { return !driver.StaticShards(2, 1).Has(s.rows[id].Shard) })
		time.Sleep(2 * simLoop)
		tookOver := s.sinceStart()
		s.own(driver.AllShards)
		var urgent []int64
		for range 10_000 { // faster than single reads are answered
			ids := s.ids(1)
			s.insert(true, ids, in(0))
			urgent = append(urgent, ids...)
			time.Sleep(250 * time.Microsecond)
		}
		time.Sleep(onTime)
		s.punctual("announced", urgent, onTime)
		s.punctual("taken over", orphans, tookOver-died+100*time.Millisecond)
	})
}

// TestBulkHintsDoNotReplaceTheSweep: there are large inserts, once a second, with various due
// times, and in between jobs that nobody announces.
func TestBulkHintsDoNotReplaceTheSweep(t *testing.T) {
	for name, dueIn := range map[string]time.Duration{"beyond the window": 45 * time.Second, "in the window": 15 * time.Second, "past": -15 * time.Second} {
		t.Run(name, func(t *testing.T) {
			simulate(t, Config{Page: 400}, func(s *sim) {
				s.own(driver.AllShards)
				var bulk, silent []int64
				for i := range 60 {
					ids := s.ids(500)
					s.insert(true, ids, in(dueIn))
					bulk = append(bulk, ids...)
					time.Sleep(700 * time.Millisecond)
					ids = s.ids(20)
					s.insert(false, ids, spread(20, -time.Duration(i)*time.Second, 2*time.Second))
					silent = append(silent, ids...)
					time.Sleep(300 * time.Millisecond)
				}
				time.Sleep(50 * time.Second)
				s.punctual("bulk", bulk, 50*time.Millisecond)
				s.punctual("not announced", silent, aLoop)
			})
		})
	}
}

// TestSmallHintsDoNotReplaceTheSweep: the same with a thousand small hints a second.
func TestSmallHintsDoNotReplaceTheSweep(t *testing.T) {
	simulate(t, Config{}, func(s *sim) {
		s.own(driver.AllShards)
		var announced, silent []int64
		for i := range 10_000 {
			ids := s.ids(1)
			s.insert(true, ids, in(0))
			announced = append(announced, ids...)
			if i%100 == 0 {
				ids = s.ids(1)
				s.insert(false, ids, in(-time.Duration(i)*time.Millisecond))
				silent = append(silent, ids...)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(2 * simLoop)
		s.punctual("announced", announced, onTime)
		s.punctual("not announced", silent, aLoop)
	})
}

// TestFarApartIDs: ids are any int64. Two ids whose difference overflows an int64 are not read
// as a range, nor are two ids with very many rows of others between them.
func TestFarApartIDs(t *testing.T) {
	simulate(t, Config{}, func(s *sim) {
		s.own(driver.AllShards)
		time.Sleep(simLoop)
		others := s.ids(2000)
		s.insert(false, others, in(time.Minute))
		pairs := [][]int64{
			{-6e18, 6e18},
			{math.MinInt64, math.MaxInt64},
			{math.MinInt64, 0},
			{-1, math.MaxInt64 - 1},
			{0, 1 << 40},
			{-1 << 62, 1 << 62},
			{math.MaxInt64 - 3, math.MaxInt64 - 2},
			{math.MinInt64 + 1, math.MinInt64 + 2},
		}
		var all []int64
		for _, ids := range pairs {
			s.insert(true, ids, in(0)) // in one statement, one hint
			all = append(all, ids...)
			time.Sleep(30 * time.Millisecond)
		}
		// One hint each, all at once.
		singles := []int64{-6e18 + 1, 6e18 + 1, 5, math.MaxInt64 - 9, 1 << 50}
		for _, id := range singles {
			s.insert(true, []int64{id}, in(0))
		}
		time.Sleep(30 * time.Millisecond)
		s.punctual("far apart", append(all, singles...), onTime)
		for _, r := range s.readsSince(0) {
			if r.kind == "range" && r.span >= 4096 {
				t.Errorf("a range of %d ids was read", r.span)
			}
		}
	})
}

// TestRandomIDs: a producer with random ids of 64 bits, one row or two a statement.
func TestRandomIDs(t *testing.T) {
	simulate(t, Config{}, func(s *sim) {
		s.own(driver.AllShards)
		r := rand.New(rand.NewPCG(1, 2))
		var all, silent []int64
		for i := range 4000 {
			ids := []int64{int64(r.Uint64())}
			if i%4 == 0 {
				ids = append(ids, int64(r.Uint64()))
			}
			s.insert(true, ids, func(int) time.Duration { return time.Duration(r.Int64N(int64(4 * time.Second))) })
			all = append(all, ids...)
			if i%50 == 0 {
				ids = s.ids(1)
				s.insert(false, ids, in(time.Second))
				silent = append(silent, ids...)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(3 * simLoop)
		s.punctual("random ids", all, onTime)
		s.punctual("not announced", silent, aLoop)
	})
}

// TestLateCommits: rows that nobody announced are found within a loop of their commit, however
// long they have been due.
func TestLateCommits(t *testing.T) {
	simulate(t, Config{}, func(s *sim) {
		s.own(driver.AllShards)
		r := rand.New(rand.NewPCG(3, 4))
		var all []int64
		for range 400 {
			ids := s.ids(1)
			// Overdue by up to three hours, or due in the next minute.
			s.insert(false, ids, in(time.Duration(float64(time.Minute)*(1-180*math.Pow(r.Float64(), 6)))))
			all = append(all, ids...)
			time.Sleep(time.Duration(r.Int64N(int64(300 * time.Millisecond))))
		}
		time.Sleep(time.Minute + simLoop)
		s.punctual("late commits", all, aLoop)
	})
}

// walk is what walking the past of all shards takes in the tests of slow deep reads.
const walk = driver.Shards * simDead

// simDead is what walking that of one shard takes.
const simDead = 60 * time.Millisecond

// dead is how long deep reads have taken since then, and of what share of the time that is.
func (s *sim) dead(since time.Duration) (busy time.Duration, share float64) {
	s.t.Helper()
	for _, r := range s.readsSince(since) {
		if r.took > 2*deepBudget {
			s.t.Fatalf("a read of %d shards took %v", r.shards, r.took)
		}
		if r.took > deepBudget {
			busy += r.took
		}
	}
	return busy, float64(busy) / float64(s.sinceStart()-since)
}

// TestSlowDeepReads: an old snapshot keeps what the index has of processed rows, so that each
// shard's past costs 60 ms to walk. Nothing asks for that, so it takes a hundredth of the time.
func TestSlowDeepReads(t *testing.T) {
	simulate(t, Config{}, func(s *sim) {
		s.deadEntries = simDead
		s.own(driver.AllShards)
		time.Sleep(time.Minute) // the first reads find out, and then all is read once
		warm := s.sinceStart()
		var urgent, silent, forgotten []int64
		for i := range 30_000 {
			ids := s.ids(1)
			s.insert(true, ids, in(0))
			urgent = append(urgent, ids...)
			if i%100 == 0 {
				ids := s.ids(2)
				s.insert(false, ids[:1], in(-3*time.Second))
				s.insert(false, ids[1:], in(-time.Minute))
				silent, forgotten = append(silent, ids[0]), append(forgotten, ids[1])
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(idleShare * walk * 11 / 10)
		s.punctual("announced", urgent, onTime)
		s.punctual("not announced", silent, aLoop+2*deepBudget)
		s.punctual("not announced, long overdue", forgotten, idleShare*walk*11/10+aLoop)
		if _, share := s.dead(warm); share > 0.011 {
			t.Errorf("deep reads take %.1f %% of the time", 100*share)
		}
	})
}

// TestSlowDeepReadsInAHurry: the same, where there is a reason to read all of the past: the feed was
// lost, or announces nothing.
func TestSlowDeepReadsInAHurry(t *testing.T) {
	var announced atomic.Bool
	announced.Store(true)
	simulate(t, Config{Announced: announced.Load}, func(s *sim) {
		s.deadEntries = simDead
		s.own(driver.AllShards)
		time.Sleep(2 * time.Minute)
		const hurried = walk*(1+deepRest)*11/10 + 2*aLoop
		forgotten := s.ids(100)
		s.loader.FeedLost()
		s.insert(false, forgotten, in(-time.Minute))
		time.Sleep(hurried)
		s.punctual("without a feed", forgotten, hurried)
		if _, share := s.dead(s.sinceStart() - hurried/2); share > 0.26 {
			t.Errorf("deep reads take %.0f %% of the time", 100*share)
		}

		forgotten = s.ids(100)
		s.insert(false, forgotten, in(-time.Minute))
		s.loader.Hint(driver.Hint{Kind: driver.HintConnected})
		time.Sleep(hurried)
		s.punctual("after the feed was lost", forgotten, hurried)
		quiet := s.sinceStart()
		time.Sleep(2 * time.Minute)
		if _, share := s.dead(quiet); share > 0.02 {
			t.Errorf("when all has been read, deep reads take %.1f %% of the time", 100*share)
		}

		announced.Store(false)
		forgotten = s.ids(100)
		s.insert(false, forgotten, in(-time.Minute))
		time.Sleep(hurried)
		s.punctual("without announcements", forgotten, hurried)
	})
}

// TestShardsUnderOldSnapshot: what is due now in shards that come to us does not wait until we have
// walked their past, neither at the start nor when we take over.
func TestShardsUnderOldSnapshot(t *testing.T) {
	simulate(t, Config{}, func(s *sim) {
		s.deadEntries = 3 * simDead
		for _, shards := range []driver.ShardSet{0xFF, driver.AllShards} {
			ids := s.ids(1000)
			s.insert(false, ids, spread(1000, 4*time.Second, 8*time.Second))
			s.own(shards)
			time.Sleep(30 * time.Second)
			if shards == driver.AllShards {
				s.punctual("at the take-over", ids, onTime)
			}
		}
	})
	simulate(t, Config{}, func(s *sim) {
		s.deadEntries = 3 * simDead
		ids := s.ids(1000)
		s.insert(false, ids, spread(1000, 4*time.Second, 8*time.Second))
		s.own(driver.AllShards)
		time.Sleep(30 * time.Second)
		s.punctual("at the start", ids, onTime)
	})
}

// TestLongTransactionUnderOldSnapshot: a transaction writes a job that is due in two minutes, which
// is not announced, and commits when it is overdue. Its end is the reason to look.
func TestLongTransactionUnderOldSnapshot(t *testing.T) {
	simulate(t, Config{}, func(s *sim) {
		s.deadEntries = simDead
		s.own(driver.AllShards)
		time.Sleep(2 * time.Minute)
		for range 3 {
			s.transaction(s.clock.Now())
			begun := s.sinceStart()
			time.Sleep(5 * time.Minute)
			if _, share := s.dead(begun); share > 0.02 {
				t.Errorf("while it is open, deep reads take %.1f %% of the time", 100*share)
			}
			ids := s.ids(100)
			s.insert(false, ids, in(-3*time.Minute)) // it commits
			s.transaction(0)
			time.Sleep(time.Minute)
			s.punctual("of a long transaction", ids, walk*(1+deepRest)*11/10+2*aLoop)
		}
	})
}

// TestForgedHints: whoever may notify our channel can announce everything as new, a thousand
// times a second. The loader reads everything again and again, but no other job waits for that.
func TestForgedHints(t *testing.T) {
	for name, deadEntries := range map[string]time.Duration{"clean index": 0, "dead entries": 60 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			simulate(t, Config{}, func(s *sim) {
				s.deadEntries = deadEntries
				s.own(driver.AllShards)
				time.Sleep(20 * time.Second)
				var urgent, silent []int64
				for i := range 10_000 {
					s.loader.Hint(driver.Hint{Kind: driver.HintJobs, MinID: math.MinInt64, MaxID: math.MaxInt64, Earliest: math.MinInt64})
					ids := s.ids(1)
					s.insert(true, ids, in(0))
					urgent = append(urgent, ids...)
					if i%100 == 0 {
						ids := s.ids(1)
						s.insert(false, ids, in(-3*time.Second))
						silent = append(silent, ids...)
					}
					time.Sleep(time.Millisecond)
				}
				time.Sleep(10 * time.Second)
				s.punctual("announced", urgent, onTime)
				s.punctual("not announced", silent, aLoop+2*deepBudget)
			})
		})
	}
}

// TestFullMemory: there are more jobs in the next half minute than memory holds. Jobs that are
// due now are in memory even so, announced or not, and the jobs that were evicted for them are
// there at their time.
func TestFullMemory(t *testing.T) {
	simulate(t, Config{Capacity: 1024}, func(s *sim) {
		later := s.ids(5000)
		s.insert(false, later, spread(5000, 15*time.Second, 25*time.Second))
		s.own(driver.AllShards)
		time.Sleep(3 * time.Second)
		if room := s.Room(); room > 1024/4 {
			t.Fatalf("memory is not full: room for %d", room)
		}
		var urgent, silent []int64
		for range 100 {
			ids := s.ids(11)
			s.insert(true, ids[:10], spread(10, 0, 2*time.Second))
			s.insert(false, ids[10:], in(0))
			urgent, silent = append(urgent, ids[:10]...), append(silent, ids[10])
			time.Sleep(50 * time.Millisecond)
		}
		begun := s.sinceStart()
		time.Sleep(25 * time.Second)
		s.punctual("urgent", urgent, onTime)
		s.punctual("not announced", silent, aLoop)
		s.punctual("evicted", later, onTime)
		if n := len(s.readsSince(begun)); n > 250 {
			t.Errorf("%d reads in 25 s: rows are read and evicted in turn", n)
		}
	})
}

// TestBulkIntoFullMemory: the same with an urgent insert that is larger than the free room.
func TestBulkIntoFullMemory(t *testing.T) {
	simulate(t, Config{Capacity: 1024, Page: 512}, func(s *sim) {
		later := s.ids(3000)
		s.insert(true, later, spread(3000, 15*time.Second, 25*time.Second))
		s.own(driver.AllShards)
		time.Sleep(3 * time.Second)
		bulk := s.ids(2000)
		s.insert(true, bulk, spread(2000, 500*time.Millisecond, 3*time.Second))
		time.Sleep(25 * time.Second)
		s.punctual("bulk", bulk, onTime)
		s.punctual("evicted", later, onTime)
	})
}

// TestDueNowBehindBacklog: more is overdue than memory takes, and it is claimed slowly. What is due
// now is there in time: announced, or inserted before, or found by the sweep within a loop if
// the feed is down. The backlog is claimed in order of fire_at, by and large, and nothing is left.
func TestDueNowBehindBacklog(t *testing.T) {
	for name, dueIn := range map[string]func(int) time.Duration{
		"one instant":     in(-time.Minute),
		"spread":          spread(7_000, -time.Hour, -3*time.Second),
		"seconds overdue": spread(7_000, -4*time.Second, -3*time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, Config{Capacity: 1024, Page: 512}, func(s *sim) {
				s.perTick = 1
				overdue, before := s.ids(7_000), s.ids(100)
				s.insert(false, overdue, dueIn)
				s.insert(false, before, spread(100, 500*time.Millisecond, 4*time.Second))
				s.own(driver.AllShards)
				time.Sleep(200 * time.Millisecond)
				var announced, silent []int64
				for i := range 200 {
					if i == 100 {
						s.loader.FeedLost()
					}
					ids := s.ids(2)
					s.insert(i < 100, ids[:1], in(0))
					s.insert(i < 100, ids[1:], in(2*time.Second))
					if i < 100 {
						announced = append(announced, ids...)
					} else {
						silent = append(silent, ids...)
					}
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(2 * simLoop)
				s.mu.Lock()
				left := len(s.rows)
				s.mu.Unlock()
				if left < 700 {
					t.Fatalf("only %d of the backlog are left: nothing was in anybody's way", left)
				}
				s.punctual("announced", announced, onTime)
				s.punctual("not announced", silent, aLoop)
				s.punctual("inserted before", before, onTime)
				time.Sleep(4 * time.Second)
				s.worst(overdue)
			})
		})
	}
}

// TestBacklogBesideFullMemory: memory is full of what is due later, and what is overdue gets its
// share of it all the same, and no more of that than it needs.
func TestBacklogBesideFullMemory(t *testing.T) {
	simulate(t, Config{Capacity: 1024, Page: 256}, func(s *sim) {
		later := s.ids(5000)
		s.insert(false, later, spread(5000, 15*time.Second, 25*time.Second))
		s.own(driver.AllShards)
		time.Sleep(3 * time.Second)
		s.perTick = 2
		overdue := s.ids(8000)
		s.insert(true, overdue, spread(8000, -time.Hour, -4*time.Second))
		time.Sleep(6 * time.Second)
		s.worst(overdue)
		time.Sleep(20 * time.Second)
		s.punctual("later", later, onTime)
	})
}

// TestCapacityBelowPage loads as much as fits.
func TestCapacityBelowPage(t *testing.T) {
	simulate(t, Config{Capacity: 1024, Page: 1 << 20}, func(s *sim) {
		overdue := s.ids(6000)
		s.insert(false, overdue, in(-time.Hour))
		s.own(driver.AllShards)
		time.Sleep(time.Second)
		s.worst(overdue)
	})
}

// TestNothingIsClaimed: while the broker is away memory fills, and then the table is hardly
// read.
func TestNothingIsClaimed(t *testing.T) {
	for name, dueIn := range map[string]func(int) time.Duration{
		"one instant": in(-time.Minute),
		"spread":      spread(5000, -time.Minute, 0),
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, Config{Capacity: 1024, Page: 256}, func(s *sim) {
				s.stuck = true
				all := s.ids(5000)
				s.insert(false, all, dueIn)
				s.own(driver.AllShards)
				time.Sleep(simLoop)
				begun := s.sinceStart()
				for range 2000 { // jobs due now, for 20 s, most of which do not fit
					ids := s.ids(1)
					s.insert(true, ids, in(0))
					all = append(all, ids...)
					time.Sleep(10 * time.Millisecond)
				}
				rows := 0
				reads := s.readsSince(begun)
				for _, r := range reads {
					rows += r.rows
				}
				if len(reads) > 2000+400 || rows > 6000 {
					t.Errorf("%d reads of %d rows in 20 s in which nothing could be claimed", len(reads), rows)
				}
				if room := s.Room(); room < 0 {
					t.Errorf("memory holds %d too many", -room)
				}
				s.mu.Lock()
				s.stuck = false
				s.mu.Unlock()
				time.Sleep(simLoop)
				s.worst(all)
			})
		})
	}
}

// TestReadsFail: when reads fail, no job is forgotten, and all jobs are in memory soon after.
func TestReadsFail(t *testing.T) {
	simulate(t, Config{}, func(s *sim) {
		s.own(driver.AllShards)
		time.Sleep(simLoop)
		s.mu.Lock()
		s.failing = true
		s.mu.Unlock()
		announced, again := s.ids(50), s.ids(50)
		for _, id := range announced {
			s.insert(true, []int64{id}, in(0))
		}
		s.insert(false, again, in(0))
		s.loader.LookAgain(again, driver.DistantPast)
		bulk := s.ids(5000)
		s.insert(true, bulk, in(0))
		time.Sleep(10 * time.Second)
		s.mu.Lock()
		s.failing = false
		s.mu.Unlock()
		time.Sleep(wait.MaxBackoff*11/10 + 100*time.Millisecond)
		s.worst(slices.Concat(announced, again, bulk))
	})
}

// TestLockedRowsDoNotStarveHints: ten thousand rows that somebody has locked are looked at
// again and again, and new ones are read in between.
func TestLockedRowsDoNotStarveHints(t *testing.T) {
	simulate(t, Config{Page: 64}, func(s *sim) {
		s.own(driver.AllShards)
		time.Sleep(simLoop)
		locked := s.ids(10_000)
		for part := range slices.Chunk(locked, 64) {
			s.loader.LookAgain(part, driver.DistantPast)
		}
		var urgent []int64
		for range 500 {
			ids := s.ids(1)
			s.insert(true, ids, in(0))
			urgent = append(urgent, ids...)
			time.Sleep(time.Millisecond)
			s.loader.LookAgain(locked[:64], driver.DistantPast)
		}
		time.Sleep(onTime)
		s.punctual("announced", urgent, onTime)
	})
}

// TestReconnect: when the feed is back, rows that were not announced meanwhile are found at
// once, not a loop later.
func TestReconnect(t *testing.T) {
	simulate(t, Config{Loop: 30 * time.Second}, func(s *sim) {
		s.own(driver.AllShards)
		time.Sleep(5 * time.Second)
		s.loader.FeedLost()
		ids := s.ids(100)
		s.insert(false, ids, spread(100, -time.Minute, time.Minute))
		s.loader.Hint(driver.Hint{Kind: driver.HintConnected})
		time.Sleep(2 * time.Minute)
		s.punctual("missed", ids, onTime)
	})
}

// TestMaxReadsIsExact, with two goroutines that read.
func TestMaxReadsIsExact(t *testing.T) {
	for _, reads := range []int{1, 2, 7} {
		simulate(t, Config{MaxReads: reads, Page: 64}, func(s *sim) {
			s.own(driver.AllShards)
			for range 30 {
				s.insert(true, s.ids(10), in(0))
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(30 * time.Second)
			select {
			case <-s.loader.UsedUp():
			default:
				t.Error("the reads are not used up")
			}
			if n := s.counted; n != reads || len(s.reads) != reads {
				t.Errorf("%d reads were made, %d counted, want %d", len(s.reads), n, reads)
			}
		})
	}
}

// TestLooksAgainAfterTheLastRead: what a read has found and a claim did not get is looked at again
// when the reads are used up, without another read being made; and the loader tells when that is done,
// whether the rows are still there or not.
func TestLooksAgainAfterTheLastRead(t *testing.T) {
	simulate(t, Config{MaxReads: 1}, func(s *sim) {
		s.own(driver.AllShards)
		<-s.loader.UsedUp()
		ids := s.ids(10)
		for _, there := range []bool{true, false} {
			if there {
				s.insert(true, ids, in(0)) // and hints are ignored
			}
			s.loader.Owe(len(ids))
			if !s.loader.Owes() {
				t.Error("ids are not owed before they are given")
			}
			s.loader.LookAgain(ids, driver.DistantPast)
			select {
			case <-s.loader.Paid():
			case <-time.After(time.Minute):
				t.Fatal("they were not looked at again")
			}
			if s.loader.Owes() {
				t.Error("ids are owed that were looked at")
			}
			time.Sleep(onTime)
		}
		s.punctual("looked at again", ids, recheckPause+onTime)
		if s.loader.completed != 1 {
			t.Errorf("%d reads count", s.loader.completed)
		}
	})
}

// TestFeedBeforeShards: the feed may connect before the first heartbeat has brought shards. What is
// due now is read first all the same, of all shards: neither old jobs nor a slow past delay it, and it
// is in the first read, which may be the only one (MaxReads).
func TestFeedBeforeShards(t *testing.T) {
	for name, cfg := range map[string]Config{"one read": {MaxReads: 1}, "a slow past": {}} {
		t.Run(name, func(t *testing.T) {
			simulate(t, cfg, func(s *sim) {
				s.deadEntries = time.Second
				ids := s.ids(500) // some in each shard
				s.insert(false, ids, in(0))
				time.Sleep(10 * time.Millisecond) // the scan finds that no shards are owned
				begun := s.sinceStart()
				s.own(driver.AllShards)
				time.Sleep(time.Minute)
				s.punctual("due now", ids, begun+onTime)
			})
		})
	}
}

// TestGainedShards: shards that another instance has left are gained some time after our own. What is
// due now in them does not wait for the next sweep, nor for what their past costs; only for the page
// that is being read.
func TestGainedShards(t *testing.T) {
	const page, hint = 200 * time.Millisecond, 10 * time.Millisecond
	simulate(t, Config{}, func(s *sim) {
		s.deadEntries = page // so that a page of the past is of one shard
		ours := driver.AllShards >> 32
		s.own(ours)
		time.Sleep(time.Minute)
		for range 5 { // at any time between two sweeps
			ids := s.ids(500)
			s.insert(true, ids, in(0))
			time.Sleep(hint) // of the others' shards it says nothing to us
			s.own(driver.AllShards)
			time.Sleep(5 * time.Second)
			s.punctual("due now", ids, hint+page+onTime)
			s.own(ours)
			time.Sleep(300 * time.Millisecond)
		}
	})
}

// TestEverythingIsFound: a random sequence of all events that a loader may see.
func TestEverythingIsFound(t *testing.T) {
	for seed := range uint64(8) {
		simulate(t, Config{Capacity: 1024, Page: 200}, func(s *sim) {
			r := rand.New(rand.NewPCG(seed, 0))
			s.own(driver.AllShards)
			var announced, silent []int64
			for range 300 {
				n := 1 + r.IntN(1<<r.IntN(9))
				ids := s.ids(n)
				from := time.Duration(r.Int64N(int64(40 * time.Second)))
				dueIn := func(int) time.Duration { return from + time.Duration(r.Int64N(int64(10*time.Second))) }
				switch r.IntN(12) {
				case 0:
					s.insert(false, ids, dueIn)
					silent = append(silent, ids...)
				case 1:
					s.insert(false, ids, in(-from))
					silent = append(silent, ids...)
				case 2:
					s.loader.LookAgain(ids, driver.DistantPast)
				case 3:
					s.loader.FeedLost()
					s.loader.Hint(driver.Hint{Kind: driver.HintConnected})
				case 4: // an eviction without need, and jobs behind it
					s.mu.Lock()
					var gone []driver.Pending
					for _, p := range s.pending {
						if r.IntN(3) == 0 {
							delete(s.pending, p.ID)
							gone = append(gone, p)
						}
					}
					s.mu.Unlock()
					s.evicted(gone, s.clock.Now())
				default:
					s.insert(true, ids, dueIn)
					announced = append(announced, ids...)
				}
				time.Sleep(time.Duration(r.Int64N(int64(200 * time.Millisecond))))
			}
			time.Sleep(70 * time.Second)
			s.punctual("announced", announced, 2*onTime)
			s.punctual("not announced", silent, aLoop+onTime)
		})
	}
}

// TestLockedRowsAreLeftAlone: thousands of rows that somebody has locked are looked at seldom,
// however often sweeps find them, as each look is a claim that delays jobs that fall due. A few
// locked rows are looked at soon.
func TestLockedRowsAreLeftAlone(t *testing.T) {
	var a announced
	now := time.Now()
	ids := make([]int64, 20_000)
	for i := range ids {
		ids[i] = int64(i)
	}
	for part := range slices.Chunk(ids, 512) {
		a.lookAgain(slices.Clone(part), 0, now)
	}
	looks := 0
	for end := now.Add(10 * time.Second); now.Before(end); now = now.Add(10 * time.Millisecond) {
		for r := a.take(now, 4096); r.some(); r = a.take(now, 4096) {
			looks += len(r.ids)
			a.lookAgain(r.ids, 0, now)
		}
	}
	if most := 10 * 2 * recheckShare * int(time.Second/recheckPause); looks > most || looks < len(ids) {
		t.Errorf("%d looks at %d rows in 10 s, want %d at most, and each", looks, len(ids), most)
	}
	if !a.waits(19_999) || a.waits(20_000) {
		t.Error("waits is wrong")
	}
	// All have gone, and a single one comes: it is looked at soon.
	now = now.Add(time.Minute)
	for r := a.take(now, 4096); r.some(); r = a.take(now, 4096) {
	}
	if len(a.waiting) != 0 {
		t.Errorf("%d ids are still waiting though none is to be looked at", len(a.waiting))
	}
	a.lookAgain([]int64{7}, 0, now)
	if next, some := a.next(); !some || next != now.Add(recheckPause) {
		t.Errorf("one row is looked at after %v", next.Sub(now))
	}
}

// TestManyAtOnce: when a large quarantine is released at once, the first jobs are looked at
// soon, and no read is larger than a page, give or take a recheckShare.
func TestManyAtOnce(t *testing.T) {
	var a announced
	now := time.Now()
	ids := make([]int64, 50_000)
	for i := range ids {
		ids[i] = int64(i)
	}
	a.lookAgain(ids, 0, now)
	if next, some := a.next(); !some || next.After(now.Add(2*recheckPause)) {
		t.Errorf("the first is looked at after %v", next.Sub(now))
	}
	got := 0
	for r := a.take(now.Add(time.Minute), 1000); r.some(); r = a.take(now.Add(time.Minute), 1000) {
		if got += len(r.ids); len(r.ids) > 1000+recheckShare {
			t.Errorf("a read of %d rows", len(r.ids))
		}
	}
	if got != len(ids) {
		t.Errorf("%d of %d are looked at", got, len(ids))
	}
}

// TestSweepsLeaveLockedRowsAlone: a sweep does not deliver rows that are to be looked at later.
func TestSweepsLeaveLockedRowsAlone(t *testing.T) {
	simulate(t, Config{}, func(s *sim) {
		s.own(driver.AllShards)
		s.loader.LookAgain(s.ids(200_000), driver.DistantPast) // ids without rows, which make the pause of the others longer
		ids := s.ids(1000)
		s.loader.LookAgain(slices.Clone(ids), driver.DistantPast)
		s.insert(false, ids, in(-time.Second))
		time.Sleep(2 * simLoop) // sweeps read everything, and no recheck of these ids is due yet
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.late) != 0 || len(s.pending) != 0 || len(s.reads) == 0 {
			t.Fatalf("%d reads have brought %d rows that are to be looked at later", len(s.reads), len(s.late)+len(s.pending))
		}
	})
}
