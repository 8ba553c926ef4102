package reactor

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/reactor/driver"
)

// loader brings the near future of the owned shards from the table to the
// dispatcher. Two goroutines read, so that neither waits for the other:
//
//   - one reads by id: what hints have named, and what a claim did not get (announced.go);
//   - one scans, in order of fire_at (scan.go): the window, i.e. all that is due before the
//     horizon (window.go), and the sweep, the safety net for what nobody announced (sweep.go).
//
// A hint may add work, and never stands in for the safety net. When one goroutine did both,
// urgent things first, then 1,000 notifications a second left two pages of scan in eight
// seconds; and while a scan walked what an old snapshot kept of processed rows, for seconds,
// new jobs waited behind it.
//
// What is read twice is harmless: the wheel knows its jobs, and the claim is exact.
type loader struct {
	source driver.Loader
	clock  *clock
	log    *slog.Logger
	stats  *counters
	out    chan<- []driver.Pending
	memory memory
	// aside reports whether a job is set aside, as its row cannot be claimed.
	aside    func(id int64) bool
	capacity int // of the memory
	loop     time.Duration
	horizon  time.Duration
	page     int
	maxRead  int // 0: no limit

	scanWake signal // there is something to scan, or room for it
	idsWake  signal // there is something to read by id
	usedUp   chan struct{}

	mu        sync.Mutex
	window    window    // guarded by mu
	announced announced // guarded by mu
	sweepNow  bool      // guarded by mu: the feed stands again; anything may have been missed
	feedUp    bool      // guarded by mu
	begun     time.Time // guarded by mu: when the first shards came
	reserved  int       // guarded by mu: reads that have begun and not failed
	completed int       // guarded by mu: reads of which everything has been delivered

	scanner scanner // owned by the goroutine that scans
}

// memory is what the loader fills: the dispatcher, with its wheel. All methods may be
// called from any goroutine.
type memory interface {
	room() int                // how many more jobs it takes
	behind() bool             // there is more overdue in it than can be claimed
	oldestDue() driver.DBTime // when the earliest job in it was due; nothingDue if it is empty
	latestDue() driver.DBTime // nothing in it is due later
}

// feedPatience is how long the first scan waits for the feed.
const feedPatience = time.Second

func newLoader(cfg Config, source driver.Loader, clock *clock, stats *counters, out chan<- []driver.Pending, memory memory) *loader {
	return &loader{
		source: source, clock: clock, log: cfg.Logger, stats: stats, out: out, memory: memory,
		capacity: cfg.MaxPending, loop: cfg.LoopFrequency, horizon: cfg.Horizon,
		page: min(cfg.JobsPerRead, cfg.MaxPending), maxRead: cfg.MaxReads,
		scanWake: newSignal(), idsWake: newSignal(), usedUp: make(chan struct{}),
		scanner: newScanner(),
	}
}

// hint takes news from the feed.
func (l *loader) hint(h driver.Hint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch h.Kind {
	case driver.HintConnected:
		l.feedUp, l.sweepNow = true, true
		l.scanWake.set()
	case driver.HintJobs:
		// Rows of others' shards are theirs to read. A shard that comes to us later is read anew.
		if h.Shards == 0 || h.Shards&l.window.front.set != 0 {
			l.announce(idRange{h.MinID, h.MaxID, h.Earliest})
		}
	}
}

// announce remembers rows that a hint names, or has the window read them. What is due
// beyond the window needs neither: the window gets there in its turn. The caller holds mu.
func (l *loader) announce(r idRange) {
	if r.earliest >= l.window.end() {
		return
	}
	if from, rewind := l.announced.add(r, l.page); rewind {
		l.window.rewind(from)
		l.scanWake.set()
		return
	}
	l.idsWake.set()
}

// feedLost notes that new jobs are not announced until the feed is back. The sweep finds
// them.
func (l *loader) feedLost() {
	l.mu.Lock()
	l.feedUp = false
	l.mu.Unlock()
}

// own sets the shards to load. New ones are read at once.
func (l *loader) own(shards driver.ShardSet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begun.IsZero() && shards != 0 {
		l.begun = time.Now()
	}
	if l.window.own(shards) != 0 {
		l.scanWake.set()
	}
}

// rescan reads everything again: the wheel has been emptied, because the clock went back.
func (l *loader) rescan() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.window.restart(l.window.front.set)
	l.window.target = l.clock.Now().Add(l.horizon)
	l.scanWake.set()
}

// evicted notes that memory has no room for jobs behind these places, one a shard. They are
// read again when there is.
func (l *loader) evicted(places []driver.Cursor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, place := range places {
		l.window.evicted(place)
	}
}

// lookAgain reads the ids again, after a pause.
func (l *loader) lookAgain(ids []int64) {
	if len(ids) == 0 {
		return
	}
	l.mu.Lock()
	l.announced.lookAgain(ids, time.Now())
	l.mu.Unlock()
	l.idsWake.set()
}

// run loads until ctx ends, or until the reads are used up: then it returns true.
func (l *loader) run(ctx context.Context) (finished bool) {
	var readers sync.WaitGroup
	readers.Go(func() { l.repeat(ctx, "ids", l.readIDs, l.waitIDs) })
	readers.Go(func() { l.repeat(ctx, "scan", l.scan, l.waitScan) })
	readers.Wait()
	return ctx.Err() == nil
}

// repeat reads until ctx ends or the reads are used up. What could not be read has to be
// put back by read.
func (l *loader) repeat(ctx context.Context, kind string, read func(context.Context) (rows []driver.Pending, worked bool, err error), wait func(context.Context) bool) {
	var pause backoff
	var failures ratelog.Limiter
	for {
		rows, worked, err := read(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.giveBack()
			failures.Fail(l.log, slog.LevelWarn, "cannot load jobs; trying again", "read", kind, "err", err)
			if !pause.sleep(ctx) {
				return
			}
		case worked:
			pause.reset()
			failures.OK(l.log, "loading jobs again", "read", kind)
			if kind == "scan" {
				rows = l.notWaiting(rows)
			}
			if !l.deliver(ctx, rows) {
				return
			}
		case !wait(ctx):
			return
		}
	}
}

// notWaiting leaves out what is to be looked at again later.
func (l *loader) notWaiting(rows []driver.Pending) []driver.Pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.announced.waiting) == 0 {
		return rows
	}
	return slices.DeleteFunc(rows, func(job driver.Pending) bool { return l.announced.waits(job.ID) })
}

// deliver hands rows to the dispatcher. Only then the read counts.
func (l *loader) deliver(ctx context.Context, rows []driver.Pending) bool {
	l.stats.loaded.touch()
	if l.aside != nil {
		rows = slices.DeleteFunc(rows, func(job driver.Pending) bool { return l.aside(job.ID) })
	}
	if len(rows) > 0 {
		slices.SortFunc(rows, inOrder)
		select {
		case l.out <- rows:
		case <-ctx.Done():
			return false
		}
	}
	l.stats.loads.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.completed++; l.completed == l.maxRead {
		close(l.usedUp)
	}
	return true
}

// inOrder is the order of due times, and of ids where those are the same. The rows of a
// read come shard by shard. In a backlog, what is loaded together is claimed together, and
// rows that were inserted together lie together: claims that each took some rows of
// every page would share the pages with the claims of the other lanes.
func inOrder(a, b driver.Pending) int {
	return cmp.Or(cmp.Compare(a.DueAt, b.DueAt), cmp.Compare(a.ID, b.ID))
}

// mayRead reports whether reads are left. The caller holds mu, and counts in reserved the
// read that it begins.
func (l *loader) mayRead() bool { return l.maxRead == 0 || l.reserved < l.maxRead }

// giveBack lets a failed read be made by anyone.
func (l *loader) giveBack() {
	l.mu.Lock()
	l.reserved--
	l.mu.Unlock()
	l.scanWake.set()
	l.idsWake.set()
}

// readIDs reads once by id, if there is something to read.
func (l *loader) readIDs(ctx context.Context) (rows []driver.Pending, worked bool, err error) {
	l.mu.Lock()
	var r idsRead
	if l.mayRead() {
		r = l.announced.take(time.Now(), l.page)
	}
	shards, until := l.window.front.set, l.window.end()
	if r.some() {
		l.reserved++
	}
	l.mu.Unlock()
	switch {
	case !r.some():
		return nil, false, nil
	case len(r.ids) > 0:
		rows, err = l.source.LoadIDs(ctx, shards, r.ids, until)
	default:
		rows, err = l.source.LoadRange(ctx, shards, r.ranges[0].min, r.ranges[0].max, until)
	}
	if err != nil {
		l.putBack(r)
	}
	return rows, true, err
}

func (l *loader) putBack(r idsRead) {
	if r.again {
		l.lookAgain(r.ids)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range r.ranges {
		l.announce(o)
	}
}

// waitIDs blocks until there is something to read by id.
func (l *loader) waitIDs(ctx context.Context) bool {
	l.mu.Lock()
	next, some := l.announced.next()
	l.mu.Unlock()
	wait := time.Hour
	if some {
		wait = time.Until(next)
	}
	return l.sleep(ctx, l.idsWake, wait)
}

// sleep blocks until it is woken, or for a while. It returns false when there is nothing
// more to do.
func (l *loader) sleep(ctx context.Context, wake signal, wait time.Duration) bool {
	timer := time.NewTimer(max(wait, time.Millisecond))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-l.usedUp:
		return false
	case <-wake:
	case <-l.clock.step():
	case <-timer.C:
	}
	return true
}
