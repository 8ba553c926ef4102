package pgsource_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// ordered inserts jobs of a key, due a while ago, in this order, and returns their ids.
func (b *bench) ordered(key string, n int) []int64 {
	b.t.Helper()
	ids := b.insert(n, "-1 minute")
	b.exec("UPDATE jobs SET ordering_key = $2 WHERE id = ANY ($1)", ids, key)
	return ids
}

// claims checks which of the jobs a claim takes.
func (b *bench) claims(when string, ids, want []int64) driver.Batch {
	b.t.Helper()
	batch := b.claim(ids)
	if got := idsOf(batch); !slices.Equal(got, want) {
		b.t.Errorf("%s: of %v are claimed %v, want %v", when, ids, got, want)
	}
	return batch
}

// TestOrderSeesAllThatIsEarlier: a job waits for every earlier one of its key that may still be sent,
// whatever has become of those between them, and of the rows.
func TestOrderSeesAllThatIsEarlier(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		for name, test := range map[string]func(ids []int64){
			"one between is cancelled": func(ids []int64) {
				first := b.claims("at first", ids, ids[:1])
				b.exec("UPDATE jobs SET processed = true WHERE id = $1", ids[1])
				b.claims("while the first is in flight", ids, nil)
				b.published(first)
				b.claims("after it", ids, ids[2:3])
			},
			"one in flight is deleted": func(ids []int64) {
				first := b.claims("at first", ids, ids[:1])
				b.exec("DELETE FROM jobs WHERE id = $1", ids[0])
				b.claims("while its message is in flight", ids, nil)
				b.published(first)
				b.claims("after it", ids, ids[1:2])
			},
			"one comes late": func(ids []int64) {
				b.exec("UPDATE jobs SET fire_at = fire_at + interval '30 seconds' WHERE id = $1", ids[0]) // behind the others
				second := b.claims("at first", ids, ids[1:2])
				b.exec("UPDATE jobs SET fire_at = fire_at - interval '40 seconds' WHERE id = $1", ids[0])
				b.claims("while the second is in flight", ids, nil)
				b.published(second)
				b.published(b.claims("after it", ids, ids[:1]))
				b.claims("after the late one", ids, ids[2:3])
			},
			"one is to be returned": func(ids []int64) {
				release := b.keepBack(b.claims("at first", ids, ids[:1]))
				b.claims("while it is noted", ids, nil)
				release()
				b.exec("DELETE FROM jobs WHERE id = $1", ids[0])
				b.claims("once it was deleted", ids, ids[1:2])
			},
			"one that is to be returned is marked": func(ids []int64) {
				release := b.keepBack(b.claims("at first", ids, ids[:1]))
				release()
				b.exec("UPDATE jobs SET claim = NULL WHERE id = $1", ids[0])
				b.claims("once it is another row", ids, ids[1:2])
			},
			"one is tried again": func(ids []int64) {
				b.refuse(b.claims("at first", ids, ids[:1]))
				b.claims("before its next attempt", ids[1:], nil)
			},
			"one cannot be claimed": func(ids []int64) {
				bad := []driver.BadJob{{ID: ids[0], Why: &driver.JobError{Reason: "a trigger"}}}
				if err := b.Quarantine(b.ctx, bad); err != nil {
					b.t.Fatal(err)
				}
				b.published(b.claims("behind one in quarantine", ids[1:], ids[1:2]))
				b.exec("UPDATE jobs SET payload = 'better' WHERE id = $1", ids[0])
				b.claims("once that was changed", ids[1:], nil)
			},
		} {
			t.Run(name, func(t *testing.T) {
				old := b.t
				b.t = t
				defer func() { b.t = old }()
				test(b.ordered(name, 4))
			})
		}
	})
}

// TestOrderBlocks: with the policy "block" a job that has failed keeps those behind it waiting, until its
// row has gone or it is tried again. An expired one does not.
func TestOrderBlocks(t *testing.T) {
	b := newBench(t)
	b.exec("UPDATE reactor.deployment SET ordered_failure = 'block'")
	fail := func(id int64, state driver.FailureState) {
		b.t.Helper()
		batch := b.claims("to fail", []int64{id}, []int64{id})
		b.settle(driver.Settlement{
			BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 1, Kept: 1, Concluded: 1, Done: true,
			Failures: []driver.Failure{{JobID: id, Reason: "no", Final: true, State: state}},
		})
	}
	ids := b.ordered("k", 4)
	fail(ids[0], driver.Expired)
	fail(ids[1], driver.Failed)
	b.claims("behind the failed one", ids, nil)
	b.exec("UPDATE jobs SET fire_at = fire_at - interval '2 hours', processed_at = processed_at - interval '2 hours'")
	if done, _ := b.purge(); done.Rows != 1 {
		t.Errorf("purge deletes %d rows, want the expired one", done.Rows)
	}
	b.claims("after the retention", ids, nil)
	b.exec("DELETE FROM jobs WHERE id = $1", ids[1])
	b.claims("after it was deleted", ids, ids[2:3])
}

// TestWaitingRowsAreLeftAlone: a claim of jobs that wait for others neither locks nor changes their rows.
func TestWaitingRowsAreLeftAlone(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		ids := b.ordered("k", 3)
		b.claims("at first", ids, ids[:1])
		b.claims("again", ids, nil)
		if n := b.count("SELECT count(*) FROM jobs WHERE id = ANY ($1) AND xmax = 0", ids[1:]); n != 2 {
			t.Errorf("%d of 2 rows were left alone", n)
		}
	})
}

// late is what a read says of the jobs: which are due by now, and which are to be looked at later.
func (b *bench) late(ids []int64) (due []int64) {
	b.t.Helper()
	jobs, err := b.LoadIDs(b.ctx, driver.AllShards, ids, driver.DistantPast, b.now().Add(time.Hour), true)
	if err != nil {
		b.t.Fatal(err)
	}
	now := b.now()
	for _, job := range jobs {
		if job.DueAt <= now {
			due = append(due, job.ID)
		}
	}
	slices.Sort(due)
	return due
}

// TestNewest: with catch-up "newest" the late jobs of a key end as missed, all but the newest of those that are due
// and can be published.
func TestNewest(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		ids := b.ordered("k", 6)
		others := b.ordered("other", 1)
		b.exec("UPDATE jobs SET fire_at = fire_at + interval '1 hour' WHERE id = $1", ids[5])
		b.exec("UPDATE jobs SET expires_at = now() - interval '1 second' WHERE id = $1", ids[4])
		b.exec("UPDATE reactor.deployment SET ordered_catch_up = 'newest'")
		all := slices.Concat(ids, others)
		if got, want := b.late(all), []int64{ids[0], others[0]}; !slices.Equal(got, want) {
			t.Errorf("due are %v, want %v", got, want)
		}
		batch := b.claims("at first", all, others)
		if batch.Missed != 3 || len(batch.Keys) != 1 {
			t.Errorf("%d jobs of %d keys are missed", batch.Missed, len(batch.Keys))
		}
		if n := b.count("SELECT count(*) FROM reactor.failed_jobs f JOIN jobs j ON j.id = f.job_id AND j.claim = f.claim AND j.processed WHERE f.state = 'missed' AND j.id = ANY ($1)", ids[:3]); n != 3 {
			t.Errorf("%d of them are recorded", n)
		}
		b.claims("then", all, ids[3:4])
		b.claims("while that is in flight", all, nil)
	})
}

// TestOutdatedRowRefusesItsEnd: a row that a trigger keeps from being ended is recorded, and the others go on.
func TestOutdatedRowRefusesItsEnd(t *testing.T) {
	b := newBench(t)
	ids := b.ordered("k", 4)
	b.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$`)
	b.exec(fmt.Sprintf("CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.id = %d) EXECUTE FUNCTION refuse()", ids[0]))
	b.exec("UPDATE reactor.deployment SET ordered_catch_up = 'newest'")
	b.late(ids)
	if batch := b.claims("at first", ids, nil); batch.Missed != 2 {
		t.Errorf("%d of 2 are missed", batch.Missed)
	}
	if n := b.count("SELECT count(*) FROM reactor.failed_jobs WHERE job_id = $1 AND claim IS NULL", ids[0]); n != 1 {
		t.Error("the bad row is not recorded")
	}
	b.claims("then", ids[1:], ids[3:])
}

// TestOrderFollowsTheTable: when the table has moved to another schema, the functions read it there.
func TestOrderFollowsTheTable(t *testing.T) {
	b := newBench(t)
	ids := b.ordered("k", 3)
	first := b.claims("at first", ids, ids[:1])
	b.exec("CREATE SCHEMA elsewhere")
	b.exec("ALTER TABLE jobs SET SCHEMA elsewhere")
	s := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url})
	_, err := s.Settle(b.ctx, []driver.Settlement{{BatchID: first.ID, Token: first.Token, Lease: b.lease, Jobs: 1, Kept: 1, Concluded: 1, Done: true}})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := s.Claim(b.ctx, b.request(ids))
	if err != nil || !slices.Equal(idsOf(batch), ids[1:2]) {
		t.Errorf("claimed %v, %v", idsOf(batch), err)
	}
}

// TestFollow: whoever settles jobs with keys is told the next ones that are due, of all shards.
func TestFollow(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		some, more, later := b.ordered("some", 3), b.ordered("more", 2), b.ordered("later", 2)
		b.exec("UPDATE jobs SET fire_at = now() + interval '1 hour' WHERE id = $1", later[1])
		plain := b.insert(1, "-1 minute")
		heads := []int64{some[0], more[0], later[0], plain[0]}
		slices.Sort(heads)
		settle := func(batch driver.Batch, st driver.Settlement) []int64 {
			st.BatchID, st.Token, st.Lease, st.Jobs, st.Kept, st.Concluded, st.Done = batch.ID, batch.Token, b.lease, len(batch.Jobs), len(batch.Jobs), len(batch.Jobs), true
			receipts, err := b.Settle(b.ctx, []driver.Settlement{st})
			if err != nil {
				b.t.Fatal(err)
			}
			followers, err := b.Follow(b.ctx, receipts[0].Keys)
			if err != nil {
				b.t.Fatal(err)
			}
			var ids []int64
			for _, f := range followers {
				ids = append(ids, f.ID)
			}
			slices.Sort(ids)
			return ids
		}
		batch := b.claims("the first of each", slices.Concat(some, more, later, plain), heads)
		if !batch.Ordered {
			t.Error("nobody waits for the end of the batch")
		}
		if got, want := settle(batch, driver.Settlement{}), []int64{some[1], more[1]}; !slices.Equal(got, want) {
			t.Errorf("%v follow, want %v", got, want)
		}
		batch = b.claims("then", some, some[1:2])
		if got := settle(batch, driver.Settlement{Failures: []driver.Failure{{JobID: some[1], Reason: "no", Final: true}}}); !slices.Equal(got, some[2:]) {
			t.Errorf("after a failure %v follow, want %v", got, some[2:])
		}
	})
}

// TestLooksAtOrderedJobs: a job that waits is looked at again, soon at first and then less and less often; a
// job whose turn it is is due.
func TestLooksAtOrderedJobs(t *testing.T) {
	b := newBench(t)
	ids := b.ordered("k", 2)
	// look returns when the second is looked at again, and the times on the database's clock between which that was decided.
	look := func() (at, before, after driver.DBTime) {
		b.t.Helper()
		before = b.now()
		jobs, err := b.LoadIDs(b.ctx, driver.AllShards, ids[1:], driver.DistantPast, before.Add(time.Hour), true)
		if err != nil || len(jobs) != 1 {
			b.t.Fatalf("loaded %v, %v", jobs, err)
		}
		return jobs[0].DueAt, before, b.now()
	}
	for _, late := range []time.Duration{0, time.Second, 24 * time.Hour} {
		fireAt := b.now().Add(-late)
		b.exec("UPDATE jobs SET fire_at = $2 WHERE id = ANY ($1)", ids, fireAt.Time())
		pause := func(now driver.DBTime) time.Duration {
			return min(max(now.Sub(fireAt), 50*time.Millisecond), 10*time.Second)
		}
		if at, before, after := look(); at < before.Add(pause(before)) || at > after.Add(pause(after)) {
			t.Errorf("behind an unfired job, %v late: looked at in %v, want %v", late, at.Sub(before), pause(before))
		}
	}
	batch := b.claims("the first", ids, ids[:1])
	if at, before, after := look(); at < before.Add(500*time.Millisecond) || at > after.Add(500*time.Millisecond) {
		t.Errorf("behind a job in flight: looked at in %v, want 500ms", at.Sub(before))
	}
	b.published(batch)
	if at, before, _ := look(); at > before.Add(-time.Hour) {
		t.Errorf("its turn: due in %v", at.Sub(before))
	}
}

// TestLooksAreCheap: what it costs to look at a job does not grow with the jobs of its key that have fired.
func TestLooksAreCheap(t *testing.T) {
	b := newBench(t)
	ids := b.ordered("k", 2)
	look := fmt.Sprintf("SELECT reactor.waits_until(hashtextextended('k', 0), fire_at, id) FROM jobs WHERE id = %d", ids[0])
	pages := func() float64 {
		var plan []byte
		b.exec(look) // with the plan of the function, which reads the catalog
		if err := b.conn.QueryRow(b.ctx, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+look).Scan(&plan); err != nil {
			b.t.Fatal(err)
		}
		var read []struct {
			Plan map[string]any
		}
		if err := json.Unmarshal(plan, &read); err != nil {
			b.t.Fatal(err)
		}
		return read[0].Plan["Shared Hit Blocks"].(float64) + read[0].Plan["Shared Read Blocks"].(float64)
	}
	before := pages()
	b.exec("INSERT INTO jobs (topic, fire_at, processed, ordering_key) SELECT 't', now() - n * interval '1 second', true, 'k' FROM generate_series(60, 20000) n")
	if after := pages(); after > before+5 {
		t.Errorf("looking reads %v pages, and %v after 20,000 have fired", before, after)
	}
}

// modelJob is a job of TestOrderModel.
type modelJob struct {
	id    int64
	key   string
	at    int // seconds
	state string
}

// TestOrderModel: whatever happens to jobs, in random order, a claim takes exactly those whose turn it is, as
// a simple model says.
func TestOrderModel(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 1))
		jobs := map[int64]*modelJob{}
		flying := map[int64]driver.Batch{} // by the batch's id
		begin := b.now().Add(-time.Hour).Time()
		in := func(states ...string) (list []*modelJob) {
			for _, id := range slices.Sorted(maps.Keys(jobs)) {
				if slices.Contains(states, jobs[id].state) {
					list = append(list, jobs[id])
				}
			}
			return list
		}
		turn := func() (ids []int64) {
			first := map[string]*modelJob{}
			busy := map[string]bool{}
			for _, j := range jobs {
				if j.state == "in flight" || j.state == "in flight, deleted" {
					busy[j.key] = true
				}
				if f := first[j.key]; j.state == "unfired" && (f == nil || cmp.Or(cmp.Compare(j.at, f.at), cmp.Compare(j.id, f.id)) < 0) {
					first[j.key] = j
				}
			}
			for key, j := range first {
				if !busy[key] {
					ids = append(ids, j.id)
				}
			}
			slices.Sort(ids)
			return ids
		}
		one := func(states ...string) *modelJob {
			if list := in(states...); len(list) > 0 {
				return list[r.IntN(len(list))]
			}
			return nil
		}
		for range 150 {
			switch r.IntN(8) {
			case 0, 1: // some are inserted, some of them before others
				for range 3 {
					j := &modelJob{key: fmt.Sprint("key ", r.IntN(3)), at: r.IntN(600), state: "unfired"}
					j.id = int64(b.count("INSERT INTO jobs (topic, fire_at, ordering_key) VALUES ('t', $3::timestamptz + $1 * interval '1 second', $2) RETURNING id", j.at, j.key, begin))
					jobs[j.id] = j
				}
			case 2, 3, 4: // a claim of all
				var all []int64
				for _, j := range in("unfired") {
					all = append(all, j.id)
				}
				if len(all) == 0 {
					continue
				}
				if batch := b.claims("by the model", all, turn()); len(batch.Jobs) > 0 {
					flying[batch.ID] = batch
					for _, job := range batch.Jobs {
						jobs[job.ID].state = "in flight"
					}
				}
			case 5: // a batch ends: published, or not sent
				for id, batch := range flying {
					delete(flying, id)
					back := r.IntN(3) == 0
					if back {
						b.unsent(batch)
					} else {
						b.published(batch)
					}
					for _, job := range batch.Jobs {
						if j := jobs[job.ID]; back && j.state == "in flight" {
							j.state = "unfired"
						} else {
							j.state = "ended"
						}
					}
					break
				}
			case 6: // one is cancelled, by either way
				if j := one("unfired"); j != nil {
					j.state = "ended"
					b.exec([]string{"DELETE FROM jobs WHERE id = $1", "UPDATE jobs SET processed = true WHERE id = $1"}[r.IntN(2)], j.id)
				} else if j := one("in flight"); j != nil {
					j.state = "in flight, deleted"
					b.exec("DELETE FROM jobs WHERE id = $1", j.id)
				}
			case 7: // one is moved
				if j := one("unfired"); j != nil {
					j.at = r.IntN(600)
					b.exec("UPDATE jobs SET fire_at = $3::timestamptz + $2 * interval '1 second' WHERE id = $1", j.id, j.at, begin)
				}
			}
			if t.Failed() {
				return
			}
		}
	})
}
