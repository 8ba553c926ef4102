package reactor

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"
)

// loader brings the near future of the owned shards from the table to the
// dispatcher. It reads for three reasons:
//
//   - a hint names a range of new ids: they are read by id;
//   - ids are to be looked at again, because a claim did not get them;
//   - a scan reads, in order of fire_at, all that is due before the horizon: after a
//     (re)connect of the feed, for newly owned shards, for hints too large or too
//     sparse to be read by id, and for the sweep.
//
// The sweep is the safety net. Every loop it reads what is due within two loops,
// from a few loops back, all of which should long be in the wheel. When the loaded
// window runs out, and every time while the feed is down, it reads everything from
// the beginning of time to the horizon.
//
// What is read twice is harmless: the wheel knows its jobs, and the claim is exact.
type loader struct {
	source  Loader
	clock   *clock
	log     *slog.Logger
	stats   *counters
	out     chan<- []Pending
	room    func() int  // how many more jobs the wheel takes
	behind  func() bool // there is more overdue in memory than can be claimed
	wake    signal
	loop    time.Duration
	horizon time.Duration
	page    int
	maxRead int // 0: no limit

	mu      sync.Mutex
	shards  ShardSet  // guarded by mu: owned
	request scanRange // guarded by mu: to be scanned next
	ids     idRange   // guarded by mu: to be read by id
	again   []recheck // guarded by mu: oldest first
	feedUp  bool      // guarded by mu
	begun   time.Time // guarded by mu: when the first shards came

	// Owned by run.
	scan      scan
	loadedTo  DBTime // everything due before has been read, or is being scanned
	lastSweep time.Time
	reads     int
	failures  ratelog.Limiter
}

// recheck holds ids that a claim did not get, to be read when the pause is over: a
// row somebody else has locked would spin otherwise.
type recheck struct {
	ids []int64
	at  time.Time
}

const (
	recheckPause = 50 * time.Millisecond
	// feedPatience is how long the first scan waits for the feed.
	feedPatience = time.Second
	// sweepBack is how many loops back a sweep begins that is not a full one.
	sweepBack = 5
)

// idRange is the union of the hints that have not been read yet.
type idRange struct {
	min, max int64
	earliest DBTime
	some     bool
}

func (r idRange) rows() int64 { return r.max - r.min + 1 }

// scanRange is what a scan is asked to cover.
type scanRange struct {
	shards ShardSet
	from   DBTime
}

func (r scanRange) merge(o scanRange) scanRange {
	if r.shards == 0 {
		return o
	}
	if o.shards == 0 {
		return r
	}
	return scanRange{shards: r.shards | o.shards, from: min(r.from, o.from)}
}

// scan is one pass over the window, in pages.
type scan struct {
	cursors []Cursor
	until   DBTime
}

func (s scan) active() bool { return len(s.cursors) > 0 }

// hint takes news from the feed.
func (l *loader) hint(h Hint) {
	l.mu.Lock()
	switch h.Kind {
	case HintConnected:
		l.feedUp = true
		l.request = l.request.merge(scanRange{l.shards, DistantPast})
	case HintJobs:
		if l.ids.some {
			h.MinID, h.MaxID = min(h.MinID, l.ids.min), max(h.MaxID, l.ids.max)
			h.Earliest = min(h.Earliest, l.ids.earliest)
		}
		l.ids = idRange{h.MinID, h.MaxID, h.Earliest, true}
	}
	l.mu.Unlock()
	l.wake.set()
}

// feedLost makes the sweeps thorough until the feed is back.
func (l *loader) feedLost() {
	l.mu.Lock()
	l.feedUp = false
	l.mu.Unlock()
}

// own sets the shards to load. New ones are scanned at once.
func (l *loader) own(shards ShardSet) {
	l.mu.Lock()
	gained := shards.Minus(l.shards)
	l.shards = shards
	if l.begun.IsZero() && shards != 0 {
		l.begun = time.Now()
	}
	l.request.shards &= shards
	l.request = l.request.merge(scanRange{gained, DistantPast})
	l.mu.Unlock()
	if gained != 0 {
		l.wake.set()
	}
}

// rescan reads everything again.
func (l *loader) rescan() {
	l.mu.Lock()
	l.request = l.request.merge(scanRange{l.shards, DistantPast})
	l.mu.Unlock()
	l.wake.set()
}

// lookAgain reads the ids again, after a pause.
func (l *loader) lookAgain(ids []int64) {
	if len(ids) == 0 {
		return
	}
	l.mu.Lock()
	l.again = append(l.again, recheck{ids, time.Now().Add(recheckPause)})
	l.mu.Unlock()
	l.wake.set()
}

// run loads until ctx ends, or until the reads are used up: then it returns true.
func (l *loader) run(ctx context.Context) (finished bool) {
	var pause backoff
	for {
		if l.maxRead > 0 && l.reads >= l.maxRead {
			return true
		}
		rows, worked, err := l.step(ctx)
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			l.failures.Fail(l.log, slog.LevelWarn, "cannot load jobs; trying again", "err", err)
			if !pause.sleep(ctx) {
				return false
			}
			continue
		case worked:
			pause.reset()
			l.failures.OK(l.log, "loading jobs again")
			l.reads++
			l.stats.loads.Add(1)
		}
		if len(rows) > 0 {
			slices.SortFunc(rows, inOrder)
			select {
			case l.out <- rows:
			case <-ctx.Done():
				return false
			}
		}
		if !worked && !l.wait(ctx) {
			return false
		}
	}
}

// inOrder is the order of due times, and of ids where those are the same. The rows of a
// read come shard by shard. In a backlog, what is loaded together is claimed together, and
// rows that were inserted together lie together: claims that each took some rows of
// every page would share the pages with the claims of the other lanes.
func inOrder(a, b Pending) int {
	return cmp.Or(cmp.Compare(a.DueAt, b.DueAt), cmp.Compare(a.ID, b.ID))
}

// wait blocks until there is something to read.
func (l *loader) wait(ctx context.Context) bool {
	next := jitter(l.loop) - time.Since(l.lastSweep)
	if l.scan.active() { // there is no room; the dispatcher will wake us
		next = l.loop
	}
	l.mu.Lock()
	if l.awaitsFeed() {
		next = feedPatience - time.Since(l.begun)
	}
	if len(l.again) > 0 {
		next = min(next, time.Until(l.again[0].at))
	}
	l.mu.Unlock()
	timer := time.NewTimer(max(next, time.Millisecond))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-l.wake:
	case <-timer.C:
	}
	return true
}

// step reads once: what is small and urgent first, then a page of the scan. What
// could not be read is put back.
func (l *loader) step(ctx context.Context) (rows []Pending, worked bool, err error) {
	until := l.clock.Now().Add(l.horizon)
	shards, ids, again := l.take()
	if len(again) > 0 {
		rows, err := l.source.LoadIDs(ctx, shards, again, until)
		if err != nil {
			l.lookAgain(again)
		}
		l.putBack(ids)
		return rows, true, err
	}
	if ids.some {
		if ids.rows() > int64(l.page) || ids.rows() > int64(l.room()) {
			l.mu.Lock()
			l.request = l.request.merge(scanRange{l.shards, ids.earliest})
			l.mu.Unlock()
		} else {
			rows, err := l.source.LoadRange(ctx, shards, ids.min, ids.max, until)
			if err != nil {
				l.putBack(ids)
			}
			return rows, true, err
		}
	}
	l.plan(until)
	if !l.scan.active() || l.room() < l.page {
		return nil, false, nil
	}
	rows, rest, err := l.source.LoadWindow(ctx, l.scan.cursors, l.scan.until, l.page)
	if err != nil {
		return nil, true, err
	}
	l.scan.cursors = rest
	return rows, true, nil
}

// take returns what is to be read by id now.
func (l *loader) take() (shards ShardSet, ids idRange, again []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids, l.ids = l.ids, idRange{}
	now := time.Now()
	for len(l.again) > 0 && !l.again[0].at.After(now) && len(again) < l.page {
		again = append(again, l.again[0].ids...)
		l.again = l.again[1:]
	}
	return l.shards, ids, again
}

func (l *loader) putBack(ids idRange) {
	if ids.some {
		l.hint(Hint{Kind: HintJobs, MinID: ids.min, MaxID: ids.max, Earliest: ids.earliest})
	}
}

// plan decides what to scan next, when nothing is being scanned.
func (l *loader) plan(horizon DBTime) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.scan.active() {
		l.joinFresh()
		return
	}
	if l.awaitsFeed() {
		return
	}
	if l.request.shards != 0 {
		l.scan.until = horizon
		l.scan.add(l.request)
		if l.request.shards == l.shards {
			l.loadedTo = horizon
			l.lastSweep = time.Now()
		}
		l.request = scanRange{}
		return
	}
	if time.Since(l.lastSweep) < l.loop-l.loop/8 {
		return
	}
	if l.behind() && l.clock.Now().Add(l.loop) < l.loadedTo {
		l.lastSweep = time.Now() // what was missed would have to wait all the same
		return
	}
	l.lastSweep = time.Now()
	now := l.clock.Now()
	soon := now.Add(2 * l.loop)
	if !l.feedUp || soon.Add(l.loop) > l.loadedTo {
		l.scan.until, l.loadedTo = horizon, horizon
		l.scan.add(scanRange{l.shards, DistantPast})
		return
	}
	l.scan.until = soon
	l.scan.add(scanRange{l.shards, now.Add(-sweepBack * l.loop)})
}

// awaitsFeed tells that the feed is about to connect for the first time. That would
// make us read everything again. The caller holds mu.
func (l *loader) awaitsFeed() bool { return !l.feedUp && time.Since(l.begun) < feedPatience }

// joinFresh lets newly owned shards join a scan that goes on, which in a backlog
// can take long. All other requests wait for its end.
func (l *loader) joinFresh() {
	if l.request.from != DistantPast || l.scan.until != l.loadedTo {
		return
	}
	var scanned ShardSet
	for _, c := range l.scan.cursors {
		scanned = scanned.With(c.Shard)
	}
	fresh := l.request.shards.Minus(scanned)
	l.scan.add(scanRange{fresh, DistantPast})
	l.request.shards = l.request.shards.Minus(fresh)
}

func (s *scan) add(r scanRange) {
	for _, shard := range r.shards.List() {
		s.cursors = append(s.cursors, CursorAt(shard, r.from))
	}
}
