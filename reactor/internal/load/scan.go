package load

import (
	"context"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// scanner is the state of the goroutine that scans. There are six kinds of pages, which are
// read in turn: no kind delays another by more than one read.
type scanner struct {
	turn  scanKind
	sweep sweep
	deep  deepPace
	idle  idlePace
	full  bool // memory is full; cleared when there is room again (ResumeRoom)
}

type scanKind int

const (
	nearSweep scanKind = iota // sweep of what is due about now, once a loop
	nearFront                 // front: what is due up to the horizon
	nearPatch                 // patch: rows of hints too large to be read by id
	deepFront                 // the same two, for shards whose place is in the past
	deepPatch
	deepSweep // sweep of the rest of the past
	scanKinds
)

func (k scanKind) deep() bool { return k >= deepFront }

// firstDeep is of how many shards the first deep read is: if the past is clean, the number of
// shards doubles with each read, and if it is not, the first must not take ten seconds.
const firstDeep = 8

func newScanner() scanner {
	return scanner{
		deep:  deepPace{shards: firstDeep},
		sweep: sweep{asked: driver.DistantPast, settled: driver.DistantPast},
	}
}

// pageRead is one read of LoadWindow.
type pageRead struct {
	cursors []driver.Cursor
	until   driver.DBTime
	limit   int
	deep    bool
	behind  driver.DBTime                           // see Read
	rotates bool                                    // it is a page of the rotation through all of the past
	done    func(rest []driver.Cursor, failed bool) // the caller holds mu
}

// scan reads one page, of the kind whose turn it is.
func (l *Loader) scan(ctx context.Context) (read Read, worked bool, err error) {
	l.askWhatIsSettled(ctx)
	p, ok := l.nextPage()
	if !ok {
		return read, false, nil
	}
	begun := time.Now()
	rows, rest, err := l.cfg.Source.LoadWindow(ctx, p.cursors, p.until, p.limit)
	took := time.Since(begun)
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.deep {
		l.scanner.deep.observe(took, len(p.cursors), len(rows), p.limit)
	}
	if p.rotates && err == nil {
		l.scanner.idle.observe(took, len(p.cursors), len(rows), l.cfg.Page)
	}
	p.done(rest, err != nil)
	return Read{Rows: l.notWaiting(rows), Behind: p.behind}, true, err
}

// nextPage begins a sweep or extends the window if it is time, and returns the page to read.
func (l *Loader) nextPage() (pageRead, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.awaitsFeed() || !l.mayRead() {
		return pageRead{}, false
	}
	now := l.cfg.Clock.Now()
	if l.window.target < now.Add(l.ahead()) {
		l.window.target = now.Add(l.cfg.Horizon)
	}
	l.window.catchUp(now.Add(-mostBehind), now)
	l.planSweep(now)
	s := &l.scanner
	for i := range scanKinds {
		kind := (s.turn + i) % scanKinds
		var p pageRead
		switch kind {
		case nearSweep, deepSweep:
			p = l.sweepPage(now, kind)
		case nearFront, deepFront:
			p = l.frontPage(now, kind)
			if kind.deep() && len(p.cursors) == 0 {
				p = l.backlogPage()
			}
		case nearPatch, deepPatch:
			p = l.patchPage(now, kind)
		}
		if len(p.cursors) > 0 {
			s.turn = kind + 1
			l.reserved++
			return p, true
		}
	}
	return pageRead{}, false
}

// awaitsFeed reports whether the feed is about to connect for the first time. When it connects,
// everything is read again, so a scan before that would be wasted. The caller holds mu.
func (l *Loader) awaitsFeed() bool { return !l.feedUp && time.Since(l.begun) < feedPatience }

// ahead is how much of the window must be left. If less is left, the window is extended to the
// horizon.
func (l *Loader) ahead() time.Duration { return min(3*l.cfg.Loop, l.cfg.Horizon/2) }

// frontPage is the next page of the window: of shards that are in the past, or of the
// others. The caller holds mu.
func (l *Loader) frontPage(now driver.DBTime, kind scanKind) pageRead {
	limit, until := l.allowance()
	cursors := l.choose(l.window.unread(until), now, kind, limit)
	if len(cursors) == 0 {
		return pageRead{}
	}
	return pageRead{
		cursors: cursors, until: l.window.beginFront(until), limit: limit, deep: kind.deep(), behind: now.Add(-mostBehind),
		done: func(rest []driver.Cursor, failed bool) { l.window.finishFront(cursors, rest, failed) },
	}
}

// mostBehind is how far a front may be behind the present before it is split.
const mostBehind = 100 * time.Millisecond

// backlogPage is the next page of what is overdue. The caller holds mu.
func (l *Loader) backlogPage() pageRead {
	limit := l.backlogAllowance()
	if limit == 0 || l.scanner.deep.rests() {
		return pageRead{}
	}
	cursors := l.window.overdue()
	cursors = cursors[:min(len(cursors), limit, l.scanner.deep.shards)]
	if len(cursors) == 0 {
		return pageRead{}
	}
	return pageRead{
		cursors: cursors, until: l.window.beginBacklog(cursors), limit: limit, deep: true, behind: l.cfg.Clock.Now(),
		done: func(rest []driver.Cursor, failed bool) { l.window.finishBacklog(cursors, rest, failed) },
	}
}

// patchPage is the next page of what is to be read once more. The caller holds mu.
func (l *Loader) patchPage(now driver.DBTime, kind scanKind) pageRead {
	limit, until := l.allowance()
	cursors := l.choose(l.window.unpatched(until), now, kind, limit)
	if len(cursors) == 0 {
		return pageRead{}
	}
	return pageRead{
		cursors: cursors, until: l.window.beginPatch(until), limit: limit, deep: kind.deep(), behind: now.Add(-mostBehind),
		done: func(rest []driver.Cursor, failed bool) { l.window.finishPatch(cursors, rest, failed) },
	}
}

// choose returns the places that belong to this kind of page, the earliest first. The caller
// holds mu.
func (l *Loader) choose(places []driver.Cursor, now driver.DBTime, kind scanKind, limit int) (chosen []driver.Cursor) {
	past, deep := l.past(now), &l.scanner.deep
	// LoadWindow gives each shard its share of the limit. If the limit is below the number of
	// shards, only the shards that are furthest behind are read.
	if kind.deep() {
		limit = min(limit, deep.shards)
	}
	for _, c := range places {
		rests := kind.deep() && deep.rests() && !l.window.fresh.Has(c.Shard)
		if kind.deep() == (c.AfterAt < past) && !rests && len(chosen) < limit {
			chosen = append(chosen, c)
		}
	}
	return chosen
}

// allowance is how many rows of the window may be read now, of those due before until.
//
// The window leaves an eighth of memory free for rows that hints and the sweep find, as those
// are more urgent. When memory is full, the window is read on once a quarter is free. Rows that
// are due before the latest in memory are read at once, as the latest are evicted for them.
func (l *Loader) allowance() (limit int, until driver.DBTime) {
	backlog := l.cfg.Memory.Backlog()
	room, reserve := l.cfg.Memory.Room()+max(0, backlog-BacklogShare(l.cfg.Capacity)), l.cfg.Capacity/8
	switch {
	case room >= ResumeRoom(l.cfg.Capacity):
		l.scanner.full = false
	case room-reserve < min(l.cfg.Page, l.cfg.Capacity/16):
		l.scanner.full = true
	}
	if l.scanner.full {
		return min(l.cfg.Page, reserve), l.cfg.Memory.LatestDue()
	}
	return min(l.cfg.Page, room-reserve), lastPlace.AfterAt
}

// backlogAllowance is how many rows of backlog may be read now; 0: none, as a page would be small.
//
// Backlog takes half of memory, and of a memory that is full of what is due later it still gets
// its share.
func (l *Loader) backlogAllowance() int {
	backlog := l.cfg.Memory.Backlog()
	free := min(l.cfg.Capacity/2-backlog, l.cfg.Memory.Room()-l.cfg.Capacity/8)
	limit := min(l.cfg.Page, max(free, BacklogShare(l.cfg.Capacity)-backlog))
	if limit < min(l.cfg.Page, l.cfg.Capacity/16) {
		return 0
	}
	return limit
}

// BacklogShare is how much of full memory is kept for what is overdue: of more than that, the
// latest makes room for whatever comes, and of less than that nothing does as long as there is
// something that is due later. So neither can keep the other out.
func BacklogShare(capacity int) int { return capacity / 4 }

// ResumeRoom is how much room there has to be in full memory before reading goes on: whoever
// owns memory says so, by Roomy, when there is.
func ResumeRoom(capacity int) int { return capacity / 4 }

// waitScan blocks until there may be something to scan.
func (l *Loader) waitScan(ctx context.Context) bool {
	l.mu.Lock()
	s := &l.scanner
	atMost := l.window.target.Sub(l.cfg.Clock.Now().Add(l.ahead()))
	if !s.unfinished() {
		atMost = min(atMost, time.Until(s.sweep.next))
	}
	if s.deep.rests() {
		atMost = min(atMost, time.Until(s.deep.restUntil))
	}
	if s.idle.rests() && len(s.sweep.deep) > 0 {
		atMost = min(atMost, time.Until(s.idle.restUntil))
	}
	switch {
	case l.awaitsFeed():
		atMost = feedPatience - time.Since(l.begun)
	case !l.mayRead():
		atMost = l.cfg.Loop // only a failed read is left to be made
	}
	l.mu.Unlock()
	return l.sleep(ctx, l.scanWake, atMost, l.usedUp)
}
