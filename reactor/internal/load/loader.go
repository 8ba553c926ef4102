// Package load reads the jobs of the owned shards that are due soon from the table into memory.
// It decides which rows are read when, in how large pages, and when they are read again because
// a row may have been missed.
//
// The package does not know what happens to the rows. It reads from a driver.Loader, fills a
// Memory, and receives events by the methods of Loader.
package load

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// Loader reads the jobs that are due soon. Two goroutines read, so that neither waits for the
// other:
//
//   - one reads by id: rows that hints have named, and rows that a claim did not get (announced.go);
//   - one scans, in order of fire_at (scan.go): the window, i.e. all that is due before the
//     horizon (window.go), and the sweep, the safety net for what nobody announced (sweep.go).
//
// A hint may add work, and never replaces the safety net. A single goroutine for both, with
// urgent reads first, was tried: then 1,000 notifications a second left time for two pages of
// scan in eight seconds; and while a scan walked the index entries of processed rows that an
// old snapshot kept, for seconds, new jobs waited.
//
// To read a row twice is harmless: memory knows its jobs, and the claim checks the row.
type Loader struct {
	cfg Config

	scanWake wait.Signal   // there is something to scan, or room for it
	idsWake  wait.Signal   // there is something to read by id
	usedUp   chan struct{} // closed when the reads are used up
	paid     wait.Signal   // owed is 0 again

	mu        sync.Mutex
	window    window    // guarded by mu
	announced announced // guarded by mu
	sweepNow  bool      // guarded by mu: the feed is connected again, and rows may have been missed
	gained    bool      // guarded by mu: there are new shards; what is due about now in them comes first
	feedUp    bool      // guarded by mu
	begun     time.Time // guarded by mu: when we first owned shards
	reserved  int       // guarded by mu: reads that have begun and have not failed
	completed int       // guarded by mu: reads whose rows have all been delivered
	owed      int       // guarded by mu: ids that claims did not get and that were not looked at again since

	scanner scanner // owned by the goroutine that scans
}

// Config is the configuration of a Loader. All fields but MaxReads, Aside, Announced and Pulse have to
// be set.
type Config struct {
	Source driver.Loader
	Clock  Clock
	Memory Memory
	// Out receives what a read has brought. The next read waits until it is received.
	Out    chan<- Read
	Report Report
	Log    *slog.Logger
	// Aside reports whether a job is set aside, as its row cannot be claimed.
	Aside func(id int64) bool
	// Announced reports whether new jobs are announced, while the feed stands. nil: they are.
	Announced func() bool
	// Pulse returns what is told whether a goroutine goes on: that which reads "ids", or that which
	// makes the "scan". nil: nobody is told.
	Pulse func(kind string) Pulse

	// Page is how many rows one read brings at most, Capacity how many Memory holds.
	Page, Capacity int
	// Loop is the time between two sweeps, Horizon how far ahead jobs are read.
	Loop, Horizon time.Duration
	// MaxReads is how many reads are made; 0: no limit. To look again at what a claim did not get is
	// part of the read that found it, and goes on after the last.
	MaxReads int
}

// Read is what one read has brought.
type Read struct {
	Rows []driver.Pending // in order of due times
	// Behind: rows that were due before this time were left behind by the scan. They wait their
	// turn, however short a time they may be overdue. Rows that are found late, by the sweep or by
	// their ids, are none of these (0).
	Behind driver.DBTime

	again int // ids that were looked at again, whether they have rows or not; 0: the read counts
}

// Clock is the database's time.
type Clock interface {
	Now() driver.DBTime
	// Step is closed by the next step of the clock.
	Step() <-chan struct{}
}

// Memory is what the loader fills. All methods may be called from any goroutine.
type Memory interface {
	// Room is how many more jobs it takes.
	Room() int
	// Backlog is how many of the jobs in it are overdue, by more than a moment.
	Backlog() int
	// Behind reports whether there is more overdue in it than can be claimed.
	Behind() bool
	// OldestDue is when the earliest job in memory was due. If memory is empty, it is later
	// than every job.
	OldestDue() driver.DBTime
	// LatestDue is an upper bound of the due times in memory.
	LatestDue() driver.DBTime
}

// Report is told of reads, from two goroutines.
type Report interface {
	// ReadAnswered: the database has answered a read.
	ReadAnswered()
	// ReadDelivered: memory has received the rows of a read.
	ReadDelivered()
}

// Pulse is told by a goroutine when it works, and when it waits for something to do.
type Pulse interface {
	Begin()
	End()
	Work()
	Rest()
}

// noPulse tells nobody.
type noPulse struct{}

func (noPulse) Begin() {}
func (noPulse) End()   {}
func (noPulse) Work()  {}
func (noPulse) Rest()  {}

// feedPatience is how long the first scan waits for the feed.
const feedPatience = time.Second

// New returns a Loader that owns no shards.
func New(cfg Config) *Loader {
	cfg.Page = min(cfg.Page, cfg.Capacity)
	if cfg.Aside == nil {
		cfg.Aside = func(int64) bool { return false }
	}
	if cfg.Announced == nil {
		cfg.Announced = func() bool { return true }
	}
	if cfg.Pulse == nil {
		cfg.Pulse = func(string) Pulse { return noPulse{} }
	}
	return &Loader{
		cfg:      cfg,
		scanWake: wait.NewSignal(), idsWake: wait.NewSignal(), usedUp: make(chan struct{}), paid: wait.NewSignal(),
		scanner: newScanner(),
	}
}

// Hint processes a hint of the feed.
func (l *Loader) Hint(h driver.Hint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch h.Kind {
	case driver.HintConnected:
		l.feedUp, l.sweepNow = true, true
		l.scanWake.Set()
	case driver.HintJobs:
		// Others read the rows of their shards. A shard that we gain later is read from the
		// beginning.
		if h.Shards == 0 || h.Shards&l.window.front.set != 0 {
			l.announce(idRange{h.MinID, h.MaxID, h.Earliest})
		}
	}
}

// TurnOf has a job looked at that waited for others with its ordering key.
func (l *Loader) TurnOf(f driver.Follower) {
	l.Hint(driver.Hint{Kind: driver.HintJobs, MinID: f.ID, MaxID: f.ID, Earliest: f.FireAt, Shards: driver.ShardSet(0).With(f.Shard)})
}

// announce remembers rows that a hint names, or adds a patch to the window for them. Rows that
// are due beyond what is read by id need neither: a front will reach them. The caller holds mu.
func (l *Loader) announce(r idRange) {
	if r.earliest >= l.idsUntil() {
		return
	}
	if from, rewind := l.announced.add(r, l.cfg.Page); rewind {
		l.window.rewind(from)
		l.scanWake.Set()
		return
	}
	l.idsWake.Set()
}

// dueSoon is how far ahead announced rows are read by id in any case.
const dueSoon = time.Second

// idsUntil is the due time up to which announced rows are read by id: what the window has read, and
// what is due about now. In a backlog that memory cannot take, the fronts stay behind, and what is
// due now must not wait for them. The caller holds mu.
func (l *Loader) idsUntil() driver.DBTime {
	return max(l.window.end(), l.cfg.Clock.Now().Add(dueSoon))
}

// FeedLost notes that new jobs are not announced until the feed is back. The sweep finds
// them.
func (l *Loader) FeedLost() {
	l.mu.Lock()
	l.feedUp = false
	l.mu.Unlock()
}

// Own sets the shards to load. New ones are read at once: first what is due about now.
func (l *Loader) Own(shards driver.ShardSet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begun.IsZero() && shards != 0 {
		l.begun = time.Now()
	}
	if l.window.own(shards) != 0 {
		l.gained = true
		l.scanWake.Set()
	}
}

// Rescan reads everything again, as memory was emptied because the database's clock went back.
func (l *Loader) Rescan() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.window.restart(l.window.front.set)
	l.window.target = l.cfg.Clock.Now().Add(l.cfg.Horizon)
	l.scanWake.Set()
}

// Evicted notes that memory has no room for the jobs behind these places, one place per shard.
// They are read again when there is room.
func (l *Loader) Evicted(overdue, ahead []driver.Cursor, now driver.DBTime) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, place := range overdue {
		l.window.evictedOverdue(place, now)
	}
	for _, place := range ahead {
		l.window.evicted(place)
	}
}

// Roomy notes that there is room in memory again, after it was full (ResumeRoom).
func (l *Loader) Roomy() { l.scanWake.Set() }

// Owe notes that n ids will be given to LookAgain. Whoever claims says so before the claim counts as
// ended: else what its claim did not get would for a moment be nobody's, and an instance whose reads
// are used up would end without it.
func (l *Loader) Owe(n int) {
	l.mu.Lock()
	l.owed += n
	l.mu.Unlock()
}

// Owes reports whether there are such ids that have not been looked at again since.
func (l *Loader) Owes() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owed > 0
}

// Paid is signalled when Owes has become false.
func (l *Loader) Paid() <-chan struct{} { return l.paid }

// UsedUp is closed when the rows of the last read are in memory (MaxReads).
func (l *Loader) UsedUp() <-chan struct{} { return l.usedUp }

// LookAgain reads the ids again, after a pause. They were due at or after from
// when they were last read; jobs that have been rescheduled since are found as well.
func (l *Loader) LookAgain(ids []int64, from driver.DBTime) {
	if len(ids) == 0 {
		return
	}
	l.mu.Lock()
	l.announced.lookAgain(ids, from, time.Now())
	l.mu.Unlock()
	l.idsWake.Set()
}

// Run loads until ctx ends. When the reads are used up, it only looks again.
func (l *Loader) Run(ctx context.Context) {
	var readers sync.WaitGroup
	readers.Go(func() { l.repeat(ctx, reader{"ids", l.readIDs, l.waitIDs}) })
	readers.Go(func() { l.repeat(ctx, reader{"scan", l.scan, l.waitScan}) })
	readers.Wait()
}

// reader is one of the two goroutines that read.
type reader struct {
	kind string
	// read makes one read, if there is something to read. If the read fails, it has to put back
	// what was to be read, and to say whether the read would have counted.
	read func(context.Context) (r Read, worked bool, err error)
	// wait blocks until there may be something to read. It returns false if no more reads will
	// follow.
	wait func(context.Context) bool
}

// repeat reads until ctx ends or the reads are used up.
func (l *Loader) repeat(ctx context.Context, r reader) {
	var pause wait.Backoff
	var failures ratelog.Limiter
	pulse := l.cfg.Pulse(r.kind)
	pulse.Begin()
	defer pulse.End()
	waits := func() bool {
		pulse.Rest()
		return r.wait(ctx)
	}
	for {
		pulse.Work()
		read, worked, err := r.read(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if read.again == 0 {
				l.giveBack()
			}
			failures.Fail(l.cfg.Log, slog.LevelWarn, "cannot load jobs; trying again", "read", r.kind, "err", err)
			if !pause.Sleep(ctx) {
				return
			}
		case worked:
			pause.Reset()
			failures.OK(l.cfg.Log, "loading jobs again", "read", r.kind)
			if !l.deliver(ctx, read) {
				return
			}
		case !waits():
			return
		}
	}
}

// notWaiting leaves out rows that are to be looked at again later: a scan must not deliver them
// sooner. The caller holds mu.
func (l *Loader) notWaiting(rows []driver.Pending) []driver.Pending {
	if len(l.announced.waiting) == 0 {
		return rows
	}
	return slices.DeleteFunc(rows, func(job driver.Pending) bool { return l.announced.waits(job.ID) })
}

// deliver hands rows to memory. Only after that a read counts, and ids are not owed any more.
func (l *Loader) deliver(ctx context.Context, read Read) bool {
	l.cfg.Report.ReadAnswered()
	read.Rows = slices.DeleteFunc(read.Rows, func(job driver.Pending) bool { return l.cfg.Aside(job.ID) })
	if len(read.Rows) > 0 {
		slices.SortFunc(read.Rows, inOrder)
		select {
		case l.cfg.Out <- read:
		case <-ctx.Done():
			return false
		}
	}
	l.cfg.Report.ReadDelivered()
	l.mu.Lock()
	defer l.mu.Unlock()
	if read.again > 0 {
		if l.owed -= read.again; l.owed <= 0 {
			l.paid.Set()
		}
		return true
	}
	if l.completed++; l.completed == l.cfg.MaxReads {
		l.cfg.Log.Info("the number of reads is used up; publishing what they found", "reads", l.completed)
		close(l.usedUp)
	}
	return true
}

// inOrder is the order of due times, then of ids. The rows of a read come shard by shard. In a
// backlog, rows that are loaded together are claimed together, and rows that were inserted
// together lie in the same pages of the table. In shard order, each claim would take some rows
// of every page, and the lanes' claims would contend for the pages.
func inOrder(a, b driver.Pending) int {
	return cmp.Or(cmp.Compare(a.DueAt, b.DueAt), cmp.Compare(a.ID, b.ID))
}

// mayRead reports whether reads are left. The caller holds mu, and counts the read that it
// begins in reserved.
func (l *Loader) mayRead() bool { return l.cfg.MaxReads == 0 || l.reserved < l.cfg.MaxReads }

// giveBack uncounts a failed read, so that either goroutine may make another one.
func (l *Loader) giveBack() {
	l.mu.Lock()
	l.reserved--
	l.mu.Unlock()
	l.scanWake.Set()
	l.idsWake.Set()
}

// readIDs reads once by id, if there is something to read.
func (l *Loader) readIDs(ctx context.Context) (read Read, worked bool, err error) {
	l.mu.Lock()
	take := l.announced.take
	if !l.mayRead() {
		take = l.announced.takeOld
	}
	r := take(time.Now(), l.cfg.Page)
	shards, until := l.window.front.set, l.idsUntil()
	switch {
	case r.again:
		read.again = len(r.ids)
	case r.some():
		l.reserved++
	}
	l.mu.Unlock()
	switch {
	case !r.some():
		return read, false, nil
	case len(r.ids) > 0:
		read.Rows, err = l.cfg.Source.LoadIDs(ctx, shards, r.ids, r.from, until, r.again)
	default:
		read.Rows, err = l.cfg.Source.LoadRange(ctx, shards, r.ranges[0].min, r.ranges[0].max, r.from, until)
	}
	if err != nil {
		l.putBack(r)
	}
	return read, true, err
}

func (l *Loader) putBack(r idsRead) {
	if r.again {
		l.LookAgain(r.ids, r.from)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range r.ranges {
		l.announce(o)
	}
}

// waitIDs blocks until there is something to read by id.
func (l *Loader) waitIDs(ctx context.Context) bool {
	l.mu.Lock()
	next, some := l.announced.next()
	l.mu.Unlock()
	atMost := time.Hour
	if some {
		atMost = time.Until(next)
	}
	return l.sleep(ctx, l.idsWake, atMost, nil)
}

// sleep blocks until it is woken, or for a time. It returns false when ctx or over has ended.
func (l *Loader) sleep(ctx context.Context, wake wait.Signal, atMost time.Duration, over <-chan struct{}) bool {
	timer := time.NewTimer(max(atMost, time.Millisecond))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-over:
		return false
	case <-wake:
	case <-l.cfg.Clock.Step():
	case <-timer.C:
	}
	return true
}
