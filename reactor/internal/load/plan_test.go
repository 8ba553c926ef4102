package load

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Tests of the plan: which pages are read in which order, without the goroutines that read
// them.

// fakeMemory is a Memory whose answers the test sets.
type fakeMemory struct {
	room, backlog  int
	behind         bool
	oldest, latest driver.DBTime
}

func (m *fakeMemory) Room() int                { return m.room }
func (m *fakeMemory) Backlog() int             { return m.backlog }
func (m *fakeMemory) Behind() bool             { return m.behind }
func (m *fakeMemory) OldestDue() driver.DBTime { return m.oldest }
func (m *fakeMemory) LatestDue() driver.DBTime { return m.latest }

// fakeTable answers each read with the same rows.
type fakeTable struct {
	mu    sync.Mutex
	rows  []driver.Pending
	err   error
	calls []string // guarded by mu
	// settled is the answer of Settled.
	settled driver.DBTime // guarded by mu
}

func (f *fakeTable) read(kind string) ([]driver.Pending, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, kind)
	return slices.Clone(f.rows), f.err
}

func (f *fakeTable) LoadWindow(context.Context, []driver.Cursor, driver.DBTime, int) ([]driver.Pending, []driver.Cursor, error) {
	rows, err := f.read("window")
	return rows, nil, err
}

func (f *fakeTable) LoadRange(context.Context, driver.ShardSet, int64, int64, driver.DBTime, driver.DBTime) ([]driver.Pending, error) {
	return f.read("range")
}

func (f *fakeTable) LoadIDs(context.Context, driver.ShardSet, []int64, driver.DBTime, driver.DBTime, bool) ([]driver.Pending, error) {
	return f.read("ids")
}

func (f *fakeTable) Settled(context.Context) (driver.DBTime, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.settled, f.err
}

type noReport struct{}

func (noReport) ReadAnswered()  {}
func (noReport) ReadDelivered() {}

// plan is a Loader whose pages the test takes one by one.
type plan struct {
	*testing.T
	loader *Loader
	clock  *simClock
	memory *fakeMemory
	table  *fakeTable
	out    chan Read
}

const planPage, planCapacity = 100, 8000

// planned runs a test of a Loader that owns four shards, and whose feed is connected.
func planned(t *testing.T, test func(p *plan)) {
	synctest.Test(t, func(t *testing.T) {
		p := &plan{T: t, clock: newSimClock(), memory: &fakeMemory{room: planCapacity}, table: &fakeTable{}, out: make(chan Read)}
		time.Sleep(time.Hour)
		p.loader = New(Config{
			Source: p.table, Clock: p.clock, Memory: p.memory, Out: p.out, Report: noReport{}, Log: slog.New(slog.DiscardHandler),
			Page: planPage, Capacity: planCapacity, Loop: simLoop, Horizon: simHorizon,
		})
		p.loader.Own(0b1111)
		p.loader.Hint(driver.Hint{Kind: driver.HintConnected})
		test(p)
	})
}

// next takes the next page, which finds no rows, and returns the page's kind; none if there is
// nothing to read.
func (p *plan) next() (scanKind, pageRead) {
	page, ok := p.loader.nextPage()
	if !ok {
		return none, page
	}
	p.loader.mu.Lock()
	defer p.loader.mu.Unlock()
	page.done(nil, false)
	return p.loader.scanner.turn - 1, page
}

const none = scanKinds

// all takes pages until there is nothing to read, and returns their kinds.
func (p *plan) all() (kinds []scanKind) {
	p.Helper()
	for range 100 {
		kind, _ := p.next()
		if kind == none {
			return kinds
		}
		kinds = append(kinds, kind)
	}
	p.Fatal("the pages don't end")
	return nil
}

func (p *plan) hint(minID, maxID int64, dueIn time.Duration) {
	p.loader.Hint(driver.Hint{Kind: driver.HintJobs, MinID: minID, MaxID: maxID, Earliest: p.clock.Now().Add(dueIn)})
}

// TestFirstScanAwaitsTheFeed: rows that are read before the feed is connected are read again
// afterwards. So the first scan waits for the feed, but not for long.
func TestFirstScanAwaitsTheFeed(t *testing.T) {
	planned(t, func(p *plan) {
		p.loader.FeedLost()
		if kind, _ := p.next(); kind != none {
			p.Errorf("a page of kind %d before the feed is connected", kind)
		}
		time.Sleep(feedPatience)
		if kind, _ := p.next(); kind == none {
			p.Error("nothing is read without a feed")
		}
	})
}

// TestPlan: new shards are read from the beginning of time up to the horizon; once a loop the
// sweep reads all that is due within two loops; when little of the window is left, the window
// is extended.
func TestPlan(t *testing.T) {
	planned(t, func(p *plan) {
		_, page := p.next()
		if now := p.clock.Now(); !page.deep || len(page.cursors) != 4 || page.limit != planPage || page.until != now.Add(simHorizon) ||
			slices.ContainsFunc(page.cursors, func(c driver.Cursor) bool { return c.AfterAt >= driver.DistantPast }) {
			p.Fatalf("the first page is %+v at %v", page, now)
		}
		if kinds := p.all(); len(kinds) != 0 {
			p.Fatalf("then come %v", kinds)
		}
		// There is a sweep in each loop, give or take its jitter.
		for range 3 {
			time.Sleep(simLoop * 11 / 10)
			kind, page := p.next()
			if kind != deepSweep || page.until != p.clock.Now().Add(2*simLoop) || page.cursors[0] != driver.CursorAt(0, driver.DistantPast) {
				p.Fatalf("the sweep is %d, %+v", kind, page)
			}
			if kinds := p.all(); len(kinds) != 0 {
				p.Fatalf("beside the sweep come %v", kinds)
			}
		}
		// The window is extended before its end is nearer than three loops.
		target := p.loader.window.target
		time.Sleep(time.Duration(target.Sub(p.clock.Now())) - 3*simLoop + time.Millisecond)
		kinds := map[scanKind]bool{}
		for range 2 {
			kind, page := p.next()
			if kinds[kind] = true; kind == nearFront && (page.cursors[0] != driver.CursorAt(0, target) || page.until != p.clock.Now().Add(simHorizon)) {
				p.Errorf("the window is read on by %+v, from %v", page, target)
			}
		}
		if !kinds[nearFront] || !kinds[deepSweep] {
			p.Errorf("after most of the window come %v", kinds)
		}
	})
}

// TestKindsTakeTurns: if there is always work of each kind, each kind of page is read every
// sixth time. So a hint adds work, and delays each other kind by one read.
func TestKindsTakeTurns(t *testing.T) {
	planned(t, func(p *plan) {
		p.all()
		p.loader.scanner.deep.shards = 2 // the deep past is slow, so it is read in parts
		begun := p.clock.Now()
		var kinds []scanKind
		for range 60 {
			// A hint of everything, a sweep that is due, a shard that was evicted, one that is new.
			p.hint(math.MinInt64, math.MaxInt64, -time.Hour)
			p.hint(math.MinInt64, math.MaxInt64, 0)
			p.loader.mu.Lock()
			p.loader.sweepNow = len(kinds)%6 == 0
			p.loader.window.evicted(driver.CursorAt(0, begun.Add(time.Second)))
			p.loader.window.restart(1 << 1)
			p.loader.window.patch.set |= 0b1101
			p.loader.window.patch.at[2] = driver.CursorAt(2, begun)
			p.loader.window.patch.at[3] = driver.CursorAt(3, driver.DistantPast)
			p.loader.mu.Unlock()
			kind, _ := p.next()
			kinds = append(kinds, kind)
		}
		for i, kind := range kinds[6:] {
			if i%6 == 0 {
				round := slices.Clone(kinds[6:][i : i+6])
				slices.Sort(round)
				if !slices.Equal(round, []scanKind{nearSweep, nearFront, nearPatch, deepFront, deepPatch, deepSweep}) {
					p.Fatalf("a round of %v (from %d)", round, kind)
				}
			}
		}
	})
}

// TestHintsAreMerged: rows that lie close together are read once, rows that are too far apart
// to be read by id are read by the window, and rows that are due beyond the window are not read
// at all.
func TestHintsAreMerged(t *testing.T) {
	planned(t, func(p *plan) {
		p.all()
		ranges := func() []idRange { return p.loader.announced.ranges }
		for id := range int64(50) {
			p.hint(1000+id, 1000+id, time.Duration(50-id)*time.Millisecond)
		}
		if r := ranges(); len(r) != 4 || r[0].min != 1000 || r[3].max != 1049 || r[3].earliest != p.clock.Now().Add(time.Millisecond) {
			p.Fatalf("fifty hints are %+v", r)
		}
		p.hint(5000, 5000+planPage-1, 0)
		p.hint(1050, 1000+planPage, 0) // one too many to go with the first
		if r := ranges(); len(r) != 6 {
			p.Fatalf("with two long ones they are %+v", r)
		}
		p.hint(9000, 9000+planPage, -time.Second) // more than a page
		if kind, page := p.next(); len(ranges()) != 6 || kind != nearPatch || page.cursors[0] != driver.CursorAt(page.cursors[0].Shard, p.clock.Now().Add(-time.Second)) {
			p.Errorf("a large hint is read by %d, %+v", kind, page)
		}
		p.hint(1, 1, simHorizon+time.Second)
		p.loader.Hint(driver.Hint{Kind: driver.HintJobs, MinID: 2, MaxID: 2, Earliest: p.clock.Now(), Shards: 1 << 4})
		if r := ranges(); len(r) != 6 {
			p.Errorf("hints of rows beyond the window, or of others' shards, make %+v", r)
		}
		// There are too many to remember them one by one.
		for i := range int64(maxRanges) {
			p.hint(1e6*(i+1), 1e6*(i+1), time.Duration(i)*time.Millisecond)
		}
		if kind, page := p.next(); len(ranges()) > maxRanges/2 || kind != nearPatch || page.cursors[0].AfterAt > p.clock.Now() {
			p.Errorf("%d ranges are left, and %d is read: %+v", len(ranges()), kind, page)
		}
	})
}

// TestReadsByID: short ranges are read together, as ids; longer ones as they are; and rechecks
// get every second read.
func TestReadsByID(t *testing.T) {
	planned(t, func(p *plan) {
		p.all()
		for id := range int64(5) {
			p.hint(1000*id, 1000*id+2, 0)
		}
		p.hint(7000, 7000+fewRows, 0)
		for i := range int64(3) {
			p.loader.LookAgain([]int64{-1 - i}, 0)
		}
		p.loader.announced.ranges = append(p.loader.announced.ranges, idRange{8000, 8050, 0}, idRange{9000, 9050, 0})
		time.Sleep(2 * recheckPause)
		for range 3 {
			if _, worked, err := p.loader.readIDs(p.Context()); !worked || err != nil {
				p.Fatal(worked, err)
			}
		}
		if want := []string{"ids", "ids", "range"}; !slices.Equal(p.table.calls, want) {
			p.Errorf("read %v, want %v: the short ranges, the rechecks, a long range", p.table.calls, want)
		}
		if len(p.loader.announced.again) != 0 || len(p.loader.announced.ranges) != 2 {
			p.Errorf("left are %+v", p.loader.announced)
		}
	})
}

// TestAllowance: the window leaves an eighth of memory free for hints and the sweep. It stops
// when hardly more is free, and goes on when a quarter is free. While memory is full, it only
// reads rows that are due before the latest in memory.
func TestAllowance(t *testing.T) {
	planned(t, func(p *plan) {
		const reserve = planCapacity / 8
		p.memory.latest = 12345
		for _, step := range []struct {
			room, limit int
			until       driver.DBTime
		}{
			{planCapacity, planPage, lastPlace.AfterAt},
			{reserve + planPage, planPage, lastPlace.AfterAt},
			{reserve + planPage - 1, planPage, 12345},
			{planCapacity/4 - 1, planPage, 12345},
			{planCapacity / 4, planPage, lastPlace.AfterAt},
			{0, planPage, 12345},
		} {
			p.memory.room = step.room
			if limit, until := p.loader.allowance(); limit != step.limit || until != step.until {
				p.Errorf("with room for %d: %d until %d, want %d until %d", step.room, limit, until, step.limit, step.until)
			}
		}
		p.loader.cfg.Page = 2 * reserve
		if limit, _ := p.loader.allowance(); limit != reserve {
			p.Errorf("with full memory, a page of %d rows, want what is kept free", limit)
		}
	})
}

// TestBacklogAllowance: backlog takes half of memory, as far as there is room, and a quarter if
// there is none; a page is not too small.
func TestBacklogAllowance(t *testing.T) {
	planned(t, func(p *plan) {
		p.loader.cfg.Page = 1000
		for _, step := range []struct{ room, backlog, limit int }{
			{planCapacity, 0, 1000},
			{planCapacity / 2, planCapacity/2 - 600, 600},
			{planCapacity / 2, planCapacity/2 - 400, 0},
			{planCapacity / 2, planCapacity / 2, 0},
			{0, 0, 1000},
			{0, planCapacity/4 - 500, 500},
			{0, planCapacity / 4, 0},
			{planCapacity / 8, planCapacity / 4, 0},
		} {
			p.memory.room, p.memory.backlog = step.room, step.backlog
			if limit := p.loader.backlogAllowance(); limit != step.limit {
				p.Errorf("with room for %d and a backlog of %d: %d, want %d", step.room, step.backlog, limit, step.limit)
			}
		}
		// The window takes room from the backlog that is more than its share.
		p.memory.room, p.memory.backlog = 0, planCapacity*3/4
		if limit, until := p.loader.allowance(); limit != 1000 || until != lastPlace.AfterAt {
			p.Errorf("beside a memory full of backlog: %d until %v", limit, until)
		}
	})
}

// TestEvictedIsReadAgain: from the first place on that was evicted, once there is room.
func TestEvictedIsReadAgain(t *testing.T) {
	planned(t, func(p *plan) {
		p.all()
		place := driver.CursorAt(2, p.clock.Now().Add(time.Second))
		p.memory.room, p.memory.latest = 0, p.clock.Now().Add(time.Second)
		p.loader.Evicted(nil, []driver.Cursor{place}, p.clock.Now())
		if kinds := p.all(); len(kinds) != 0 {
			p.Errorf("memory is full, and pages of kind %v are read", kinds)
		}
		p.memory.room = planCapacity
		kind, page := p.next()
		if kind != nearFront || len(page.cursors) != 1 || page.cursors[0] != place {
			p.Errorf("read is %d, %+v", kind, page)
		}
	})
}

// TestSweepsAreRareWhileBehind: while jobs fall due faster than they are claimed there is a sweep
// every few loops, of what is near, and of the past up to the oldest of them. Without a feed, that
// of what is near comes each loop.
func TestSweepsAreRareWhileBehind(t *testing.T) {
	planned(t, func(p *plan) {
		p.all()
		p.memory.behind, p.memory.oldest = true, p.clock.Now().Add(-time.Minute)
		sweeps := 0
		for range 20 * 10 {
			time.Sleep(simLoop / 10)
			for kind, page := p.next(); kind != none; kind, page = p.next() {
				switch {
				case kind == nearSweep:
					sweeps++
				case kind == deepSweep && page.until > p.memory.oldest:
					p.Fatalf("a sweep until %v", page.until.Sub(p.clock.Now()))
				}
			}
		}
		if most := 20/sweepRarely + 1; sweeps > most || sweeps < most-2 {
			p.Errorf("%d sweeps in twenty loops, want about %d", sweeps, most-1)
		}
		p.loader.FeedLost()
		sweeps = 0
		for range 10 {
			time.Sleep(simLoop * 11 / 10)
			for kind, _ := p.next(); kind != none; kind, _ = p.next() {
				if kind == nearSweep {
					sweeps++
				}
			}
		}
		if sweeps < 10 {
			p.Errorf("%d sweeps in ten loops without a feed", sweeps)
		}
	})
}

var errAway = errors.New("the database is away")

// TestFailedReadsAreMadeAgain: after a failed read, the same rows are still to be read.
func TestFailedReadsAreMadeAgain(t *testing.T) {
	planned(t, func(p *plan) {
		p.all()
		p.loader.cfg.MaxReads, p.loader.sweepNow = p.loader.reserved+1, true
		p.table.err = errAway
		p.hint(1, 3, 0)
		for _, read := range []func(context.Context) (Read, bool, error){p.loader.scan, p.loader.readIDs, p.loader.scan} {
			if _, worked, err := read(p.Context()); !worked || !errors.Is(err, errAway) {
				p.Fatalf("worked: %v, %v", worked, err)
			}
			if kind, _ := p.next(); kind != none {
				p.Fatal("a page is read though no reads are left")
			}
			p.loader.giveBack()
		}
		if r := p.loader.announced.ranges; len(r) != 1 || r[0].min != 1 || r[0].max != 3 {
			p.Errorf("announced are %+v", r)
		}
		p.loader.LookAgain([]int64{7}, 0)
		p.loader.announced.ranges = nil
		time.Sleep(recheckPause)
		if read, _, _ := p.loader.readIDs(p.Context()); read.again != 1 {
			p.Errorf("to look again at an id counts as a read: %+v", read)
		}
		if !p.loader.announced.waits(7) {
			p.Error("an id that was to be looked at again is forgotten")
		}
		if kind, page := p.next(); kind != deepSweep || len(page.cursors) != 4 {
			p.Errorf("the next page is %d, %+v", kind, page)
		}
	})
}

// TestStopWhileMemoryTakesNothing: the loader ends, and rows that memory has not taken don't
// count as a read.
func TestStopWhileMemoryTakesNothing(t *testing.T) {
	planned(t, func(p *plan) {
		p.table.rows = []driver.Pending{{ID: 1}}
		ctx, cancel := context.WithCancel(p.Context())
		ended := make(chan struct{})
		go func() { p.loader.Run(ctx); close(ended) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(p.table.calls); n != 1 || p.loader.completed != 0 {
			p.Errorf("%d reads while nobody takes the first, %d counted", n, p.loader.completed)
		}
		cancel()
		<-ended
		select {
		case <-p.loader.UsedUp():
			p.Error("the reads are used up")
		default:
		}
	})
}

// TestRowsInOrder: memory gets the rows of a read in order of due time and id, without those that
// are set aside.
func TestRowsInOrder(t *testing.T) {
	planned(t, func(p *plan) {
		p.loader.cfg.Aside = func(id int64) bool { return id == 3 }
		p.table.rows = []driver.Pending{{ID: 4, DueAt: 2}, {ID: 9, DueAt: 1}, {ID: 3, DueAt: 1}, {ID: 2, DueAt: 2}}
		ctx, cancel := context.WithCancel(p.Context())
		ended := make(chan struct{})
		go func() { p.loader.Run(ctx); close(ended) }()
		rows := (<-p.out).Rows
		if len(rows) != 3 || rows[0].ID != 9 || rows[1].ID != 2 || rows[2].ID != 4 {
			p.Errorf("delivered are %+v", rows)
		}
		cancel()
		<-ended
	})
}

// TestClockGoesBack: memory was emptied, and the rows that were read are due later than it
// seemed. Everything is read again, up to the horizon by the new time.
func TestClockGoesBack(t *testing.T) {
	simulate(t, Config{}, func(s *sim) {
		s.own(driver.AllShards)
		time.Sleep(time.Minute)
		s.clock.set(-time.Hour)
		ids := s.ids(100)
		s.insert(false, ids, spread(100, 0, 20*time.Second))
		s.insert(false, s.ids(1), in(10*time.Minute)) // within the window before the step
		s.mu.Lock()
		clear(s.pending)
		s.mu.Unlock()
		s.loader.Rescan()
		time.Sleep(25 * time.Second)
		s.punctual("inserted after the step", ids, onTime)
		if len(s.pending) != 0 {
			t.Errorf("memory holds %v, beyond the horizon", s.pending)
		}
	})
}

// TestReadsSayWhere: what hints name is read from their earliest fire_at on, and nowhere else. What a
// claim did not get is read from where it was, and is looked for everywhere.
func TestReadsSayWhere(t *testing.T) {
	var a announced
	a.add(idRange{1, 3, 500}, 1000)
	a.add(idRange{5000, 5003, 400}, 1000)
	a.add(idRange{9000, 9500, 300}, 1000)
	now := time.Now()
	if r := a.take(now, 1000); len(r.ids) != 7 || r.from != 400 || r.again {
		t.Errorf("the short ranges: %+v", r)
	}
	if r := a.take(now, 1000); len(r.ranges) != 1 || r.from != 300 || r.again {
		t.Errorf("the long one: %+v", r)
	}
	a.lookAgain([]int64{1}, 700, now)
	a.lookAgain([]int64{2}, 600, now)
	if r := a.take(now.Add(time.Minute), 1000); len(r.ids) != 2 || r.from != 600 || !r.again {
		t.Errorf("rechecks: %+v", r)
	}
}
