package load

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// sim is the loader in synthetic time, between a table and a memory that are as simple as
// possible. Jobs in memory are claimed when they are due. The simulation measures for each job
// how long after its fire_at, or after its commit if that was later, it is claimed.
type sim struct {
	t      *testing.T
	clock  *simClock
	loader *Loader

	mu       sync.Mutex
	rows     map[int64]*simRow        // guarded by mu: unprocessed
	pending  map[int64]driver.Pending // guarded by mu: in memory
	next     driver.DBTime            // guarded by mu: no job in memory is due before this time
	reads    []simRead                // guarded by mu
	counted  int                      // guarded by mu: reads that were delivered
	late     map[int64]time.Duration  // guarded by mu: lateness of the claimed jobs
	capacity int
	stuck    bool // guarded by mu: nothing is claimed
	perTick  int  // guarded by mu: how much backlog is claimed in a millisecond; 0: all of it
	failing  bool // guarded by mu: reads fail
	// deadEntries is what a scan of one shard from the deep past costs.
	deadEntries time.Duration
	openSince   driver.DBTime // guarded by mu: 0: none is open
	nextID      int64
}

type simRow struct {
	driver.Pending
	committed driver.DBTime
}

type simRead struct {
	kind   string
	begun  time.Duration // since the start
	took   time.Duration
	shards int
	rows   int
	span   uint64 // of ids
}

const simFeed = 5 * time.Millisecond // the time from commit to hint

// The defaults of an instance. The tests' bounds hold for these.
const (
	simLoop     = 2 * time.Second
	simHorizon  = 30 * time.Second
	simPage     = 4096
	simCapacity = 1 << 18
	// simAnnounced is how far ahead jobs are announced, simClaim the size of a claim, and
	// simLate how long a claim's worth of jobs must have been due for memory to be behind.
	simAnnounced = time.Minute
	simClaim     = 512
	simLate      = 100 * time.Millisecond
	// simOverdue is what makes backlog of a job.
	simOverdue = 3 * time.Second
)

// simulate runs a test with a loader whose feed is connected.
func simulate(t *testing.T, cfg Config, test func(s *sim)) {
	synctest.Test(t, func(t *testing.T) {
		cfg.Page, cfg.Capacity = cmp.Or(cfg.Page, simPage), cmp.Or(cfg.Capacity, simCapacity)
		cfg.Loop, cfg.Horizon = cmp.Or(cfg.Loop, simLoop), cmp.Or(cfg.Horizon, simHorizon)
		s := &sim{
			t: t, clock: newSimClock(), rows: map[int64]*simRow{}, pending: map[int64]driver.Pending{},
			late: map[int64]time.Duration{}, capacity: cfg.Capacity, nextID: 1,
		}
		loaded := make(chan Read)
		cfg.Source, cfg.Clock, cfg.Memory, cfg.Out, cfg.Report, cfg.Log = s, s.clock, s, loaded, s, slog.New(slog.DiscardHandler)
		s.loader = New(cfg)
		ctx, cancel := context.WithCancel(context.Background())
		var group sync.WaitGroup
		group.Go(func() { s.loader.Run(ctx) })
		group.Go(func() { s.keep(ctx, loaded) })
		defer group.Wait()
		defer cancel()
		s.loader.Hint(driver.Hint{Kind: driver.HintConnected})
		test(s)
	})
}

// simClock is the database's clock, which a test may set.
type simClock struct {
	mu    sync.Mutex
	base  driver.DBTime // guarded by mu
	since time.Time     // guarded by mu
	moved chan struct{} // guarded by mu
}

func newSimClock() *simClock { return &simClock{since: time.Now(), moved: make(chan struct{})} }

func (c *simClock) Now() driver.DBTime {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base.Add(time.Since(c.since))
}

func (c *simClock) Step() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moved
}

// set moves the clock by d.
func (c *simClock) set(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base = c.base.Add(d)
	close(c.moved)
	c.moved = make(chan struct{})
}

// own gives the loader shards.
func (s *sim) own(shards driver.ShardSet) { s.loader.Own(shards) }

func (s *sim) sinceStart() time.Duration { return time.Since(s.clock.since) }

// insert commits rows with the given due times from now, whose ids determine their shards. It
// announces them if announced is set.
func (s *sim) insert(announced bool, ids []int64, dueIn func(i int) time.Duration) {
	now := s.clock.Now()
	h := driver.Hint{Kind: driver.HintJobs, MinID: slices.Min(ids), MaxID: slices.Max(ids), Earliest: math.MaxInt64}
	s.mu.Lock()
	for i, id := range ids {
		due := now.Add(dueIn(i))
		s.rows[id] = &simRow{driver.Pending{ID: id, DueAt: due, Bytes: 10, Shard: uint8(uint64(id) * 0x9E3779B97F4A7C15 >> 58)}, now}
		h.Earliest = min(h.Earliest, due)
	}
	s.mu.Unlock()
	if announced && h.Earliest < now.Add(simAnnounced) {
		time.AfterFunc(simFeed, func() { s.loader.Hint(h) })
	}
}

// ids returns the next n ids.
func (s *sim) ids(n int) []int64 {
	list := make([]int64, n)
	for i := range list {
		list[i] = s.nextID
		s.nextID++
	}
	return list
}

func in(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }

func spread(n int, from, to time.Duration) func(int) time.Duration {
	return func(i int) time.Duration { return from + (to-from)*time.Duration(i)/time.Duration(n) }
}

// keep runs the memory: it takes loaded jobs, and claims them when they are due.
func (s *sim) keep(ctx context.Context, loaded <-chan Read) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case read := <-loaded:
			rows := read.Rows
			s.keepRows(rows)
		case <-tick.C:
			s.claim()
		}
	}
}

func (s *sim) keepRows(rows []driver.Pending) {
	s.mu.Lock()
	for _, row := range rows {
		if s.rows[row.ID] != nil {
			s.pending[row.ID] = row
			s.next = min(s.next, row.DueAt)
		}
	}
	over := len(s.pending) - s.capacity
	if over <= 0 {
		s.mu.Unlock()
		return
	}
	// The latest of the backlog makes room, if it has more than its share, and otherwise what
	// is due last.
	now := s.clock.Now()
	over += s.capacity / 64
	overdue := now.Add(-simOverdue)
	var backlog, others []driver.Pending
	for _, p := range s.pending {
		if p.DueAt < overdue {
			backlog = append(backlog, p)
		} else {
			others = append(others, p)
		}
	}
	slices.SortFunc(backlog, inOrder)
	slices.SortFunc(others, inOrder)
	n := min(over, max(0, len(backlog)-BacklogShare(s.capacity)))
	m := min(over-n, len(others))
	n = over - m
	gone := append(backlog[len(backlog)-n:len(backlog):len(backlog)], others[len(others)-m:]...)
	for _, p := range gone {
		delete(s.pending, p.ID)
	}
	s.mu.Unlock()
	s.evicted(gone, now)
}

// evicted tells the loader.
func (s *sim) evicted(gone []driver.Pending, now driver.DBTime) {
	var overdue, ahead []driver.Cursor
	for _, p := range gone {
		if place := CursorBefore(p.Shard, p.DueAt, p.ID); p.DueAt < now {
			overdue = append(overdue, place)
		} else {
			ahead = append(ahead, place)
		}
	}
	s.loader.Evicted(overdue, ahead, now)
}

func (s *sim) claim() {
	s.mu.Lock()
	if s.stuck {
		s.mu.Unlock()
		return
	}
	now := s.clock.Now()
	if s.next > now {
		s.mu.Unlock()
		return
	}
	s.next = driver.DBTime(math.MaxInt64)
	overdue := now.Add(-simOverdue)
	var due, backlog []driver.Pending
	for _, p := range s.pending {
		switch {
		case p.DueAt > now:
			s.next = min(s.next, p.DueAt)
		case p.DueAt < overdue:
			backlog = append(backlog, p)
		default:
			due = append(due, p)
		}
	}
	if n := s.perTick; n > 0 && n < len(backlog) {
		slices.SortFunc(backlog, inOrder)
		backlog, s.next = backlog[:n], now
	}
	for _, p := range append(due, backlog...) {
		if row := s.rows[p.ID]; row != nil {
			s.late[p.ID] = now.Sub(max(row.DueAt, row.committed))
			delete(s.rows, p.ID)
		}
		delete(s.pending, p.ID)
	}
	roomy := s.capacity-len(s.pending) >= ResumeRoom(s.capacity)
	s.mu.Unlock()
	if roomy || s.perTick > 0 {
		s.loader.Roomy()
	}
}

// worst is the largest lateness of the ids, all of which must have been claimed.
func (s *sim) worst(ids []int64) time.Duration {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	worst, missing := time.Duration(0), 0
	for _, id := range ids {
		late, ok := s.late[id]
		if !ok {
			missing++
		}
		worst = max(worst, late)
	}
	if missing > 0 {
		s.t.Errorf("%d of %d jobs were never claimed", missing, len(ids))
	}
	return worst
}

// punctual checks that all ids were claimed, and at most atMost late.
func (s *sim) punctual(what string, ids []int64, atMost time.Duration) {
	s.t.Helper()
	if worst := s.worst(ids); worst > atMost {
		s.t.Errorf("%s: up to %v late, want at most %v", what, worst, atMost)
	} else {
		s.t.Logf("%s: %d jobs, up to %v late", what, len(ids), worst)
	}
}

// readsSince returns the reads that began at that time or later.
func (s *sim) readsSince(begun time.Duration) []simRead {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.reads, func(r simRead) bool { return r.begun >= begun })
	if i < 0 {
		return nil
	}
	return slices.Clone(s.reads[i:])
}

// Room implements Memory, as the next four do.
func (s *sim) Room() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.capacity - len(s.pending)
}

func (s *sim) Backlog() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	overdue := s.clock.Now().Add(-simOverdue)
	for _, p := range s.pending {
		if p.DueAt < overdue {
			n++
		}
	}
	return n
}

func (s *sim) Behind() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	late, n := s.clock.Now().Add(-simLate), 0
	for _, p := range s.pending {
		if p.DueAt < late {
			n++
		}
	}
	return n >= min(simClaim, s.loader.cfg.Page)
}

func (s *sim) OldestDue() driver.DBTime {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := driver.DBTime(math.MaxInt64)
	for _, p := range s.pending {
		oldest = min(oldest, p.DueAt)
	}
	return oldest
}

func (s *sim) LatestDue() driver.DBTime {
	s.mu.Lock()
	defer s.mu.Unlock()
	latest, overdue := driver.DistantPast, s.clock.Now().Add(-simOverdue)
	for _, p := range s.pending {
		if p.DueAt >= overdue {
			latest = max(latest, p.DueAt)
		}
	}
	return latest
}

// ReadAnswered and ReadDelivered implement Report.
func (s *sim) ReadAnswered() {}

func (s *sim) ReadDelivered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted++
}

// LoadWindow implements driver.Loader. The snapshot is taken at the beginning, and the answer
// comes later.
func (s *sim) LoadWindow(ctx context.Context, cursors []driver.Cursor, until driver.DBTime, limit int) ([]driver.Pending, []driver.Cursor, error) {
	now, later := cursors, []driver.Cursor(nil)
	if len(cursors) > limit {
		now, later = cursors[:limit], cursors[limit:]
	}
	perShard := limit / len(now)
	rest := slices.Clone(later)
	took := time.Duration(0)
	var found []driver.Pending
	s.mu.Lock()
	var behind [driver.Shards][]driver.Pending
	from := map[uint8]driver.Cursor{}
	for _, c := range now {
		from[c.Shard] = c
	}
	for _, row := range s.rows {
		if c, ok := from[row.Shard]; ok && row.DueAt < until && c.Before(driver.Cursor{AfterAt: row.DueAt, AfterID: row.ID}) {
			behind[row.Shard] = append(behind[row.Shard], row.Pending)
		}
	}
	for _, c := range now {
		list := behind[c.Shard]
		slices.SortFunc(list, inOrder)
		if len(list) >= perShard {
			list = list[:perShard]
			last := list[perShard-1]
			rest = append(rest, driver.Cursor{Shard: c.Shard, AfterAt: last.DueAt, AfterID: last.ID})
		}
		found = append(found, list...)
		if c.AfterAt < s.clock.Now().Add(-sweepBack*simLoop-time.Second) {
			took += s.deadEntries
		}
	}
	s.mu.Unlock()
	return found, rest, s.answer(ctx, simRead{kind: "window", shards: len(now), rows: len(found), took: took})
}

func (s *sim) LoadRange(ctx context.Context, shards driver.ShardSet, minID, maxID int64, from, until driver.DBTime) ([]driver.Pending, error) {
	var found []driver.Pending
	s.mu.Lock()
	for id, row := range s.rows {
		if id >= minID && id <= maxID && shards.Has(row.Shard) && row.DueAt >= from && row.DueAt < until {
			found = append(found, row.Pending)
		}
	}
	s.mu.Unlock()
	return found, s.answer(ctx, simRead{kind: "range", rows: len(found), span: uint64(maxID) - uint64(minID)})
}

func (s *sim) LoadIDs(ctx context.Context, shards driver.ShardSet, ids []int64, from, until driver.DBTime, everywhere bool) ([]driver.Pending, error) {
	var found []driver.Pending
	s.mu.Lock()
	for _, id := range ids {
		if row := s.rows[id]; row != nil && shards.Has(row.Shard) && (everywhere || row.DueAt >= from) && row.DueAt < until {
			found = append(found, row.Pending)
		}
	}
	s.mu.Unlock()
	return found, s.answer(ctx, simRead{kind: "ids", rows: len(found), span: uint64(len(ids))})
}

// Settled implements driver.Loader: what was written is committed at once, unless a transaction has
// been open since openSince.
func (s *sim) Settled(context.Context) (driver.DBTime, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.openSince != 0 {
		return s.openSince, nil
	}
	return s.clock.Now().Add(-time.Second), nil
}

// transaction has one be open since then, or none.
func (s *sim) transaction(since driver.DBTime) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.openSince = since
}

var errSim = errors.New("the database is away")

func (s *sim) answer(ctx context.Context, r simRead) error {
	r.begun = s.sinceStart()
	r.took += 300*time.Microsecond + time.Duration(r.rows)*3*time.Microsecond
	ok := wait.Sleep(ctx, r.took)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = append(s.reads, r)
	return cmp.Or(ctx.Err(), map[bool]error{true: errSim}[s.failing || !ok])
}
