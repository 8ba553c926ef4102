package load

import (
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/wait"
)

// sweep is the safety net: it reads again what should long be in memory, and finds what was
// committed late and not announced: by a transaction that was open for longer than the
// notify horizon, without triggers, under session_replication_role, while the feed was down.
//
// Each loop it covers, for all shards, everything that is due within two loops, from the
// beginning of time. So a job that nobody announced is found within one loop of its commit,
// or a loop before it is due, if that is later.
//
// The scans are index scans of unprocessed rows, and the past is clean: it costs almost
// nothing, 64 descents of the index. Unless a snapshot that somebody holds makes the index
// keep entries of processed rows: then a scan from the beginning of time walks them all,
// 1.3 s for each million. So what is near, the last five loops and the next two, is then
// read each loop for all shards, and the deep rest a few shards at a time, as many as take
// some 50 ms (deepPace). A late row that is overdue by more than five loops is then found
// after at most
//
//	the time in which all shards are walked, times four, and a loop
//
// and everything else as ever. While jobs fall due faster than they are claimed, the deep past
// is read up to the oldest of them only: what is due later has to wait anyway. What is near is
// read all the same, for it may be due now; but every few loops, as it may be a lot, unless the
// feed is down.
//
// What has not been read for the first time is the window's to read; the sweep ends there.
type sweep struct {
	next  time.Time       // of the next round
	last  time.Time       // round that was not left out
	near  []driver.Cursor // of this round
	deep  []driver.Cursor // of this rotation, which may take several rounds
	whole bool            // deep includes what is near
}

const (
	// sweepBack is how many loops back that begins which is near.
	sweepBack      = 5
	leastSweepBack = 5 * time.Second
	// sweepRarely is every how many loops a sweep is made while jobs fall due faster than
	// they are claimed: what it finds has to wait all the same.
	sweepRarely = 5
)

// past is where the deep past ends.
func (l *Loader) past(now driver.DBTime) driver.DBTime {
	return now.Add(-max(sweepBack*l.cfg.Loop, leastSweepBack))
}

// unfinished reports whether the round has to go on before another begins. A rotation through
// the deep past goes on beside the rounds.
func (s *scanner) unfinished() bool {
	return len(s.sweep.near) > 0 || s.sweep.whole && len(s.sweep.deep) > 0 && len(s.sweep.deep) <= s.deep.shards
}

// planSweep begins a round when it is time. The caller holds mu.
func (l *Loader) planSweep(now driver.DBTime) {
	s, t := &l.scanner.sweep, time.Now()
	switch {
	case l.sweepNow:
	case t.Before(s.next) || l.scanner.unfinished():
		return
	case l.cfg.Memory.Behind() && l.feedUp && t.Sub(s.last) < sweepRarely*l.cfg.Loop:
		s.next = t.Add(l.cfg.Loop / 8) // it may be over in a moment
		return
	}
	shards := l.window.front.set.Minus(l.window.fresh)
	if l.sweepNow {
		s.deep = nil
	}
	l.sweepNow = false
	s.next, s.last = t.Add(wait.Jitter(l.cfg.Loop)), t
	s.whole = l.scanner.deep.shards >= shards.Len() && l.window.backlog.set == 0 && !l.cfg.Memory.Behind()
	s.near = nil
	if !s.whole {
		s.near = l.nearCursors(shards, now)
	}
	if s.whole || len(s.deep) == 0 {
		s.deep = cursorsAt(shards, driver.DistantPast)
	}
}

// nearCursors are where a sweep of what is near begins: where the past ends, or the backlog,
// which is to be read for the first time. The caller holds mu.
func (l *Loader) nearCursors(shards driver.ShardSet, now driver.DBTime) []driver.Cursor {
	list := cursorsAt(shards, l.past(now))
	for i, c := range list {
		if l.window.backlog.set.Has(c.Shard) {
			list[i] = later(c, driver.CursorAt(c.Shard, l.window.split[c.Shard]))
		}
	}
	return list
}

func cursorsAt(shards driver.ShardSet, from driver.DBTime) []driver.Cursor {
	list := make([]driver.Cursor, 0, shards.Len())
	for _, shard := range shards.List() {
		list = append(list, driver.CursorAt(shard, from))
	}
	return list
}

// sweepPage is the next page of the round, or of the rotation. The caller holds mu.
func (l *Loader) sweepPage(now driver.DBTime, kind scanKind) pageRead {
	s := &l.scanner.sweep
	until := l.sweepUntil(now, kind)
	list := &s.near
	if kind == deepSweep {
		if l.scanner.deep.rests() {
			return pageRead{}
		}
		list = &s.deep
	}
	var cursors []driver.Cursor
	for len(*list) > 0 && (kind == nearSweep || len(cursors) < l.scanner.deep.shards) {
		c := (*list)[0]
		*list = (*list)[1:]
		if l.window.front.set.Minus(l.window.fresh).Has(c.Shard) && after(c) < until {
			cursors = append(cursors, c)
		}
	}
	if len(cursors) > l.cfg.Page { // LoadWindow would leave those out that are too many
		*list = append(cursors[l.cfg.Page:len(cursors):len(cursors)], *list...)
		cursors = cursors[:l.cfg.Page]
	}
	return pageRead{
		cursors: cursors, until: until, limit: l.cfg.Page, deep: kind.deep(),
		done: func(rest []driver.Cursor, failed bool) {
			if failed {
				rest = cursors
			}
			*list = append(rest, *list...)
		},
	}
}

// sweepUntil is where a sweep ends. Of the deep past, what the backlog is still to read is left
// out, and while jobs fall due faster than they are claimed what is due after the oldest in
// memory: that is known, and a lot.
func (l *Loader) sweepUntil(now driver.DBTime, kind scanKind) driver.DBTime {
	until := min(now.Add(2*l.cfg.Loop), l.window.swept(l.past(now)))
	if kind == nearSweep {
		return until
	}
	if !l.scanner.sweep.whole {
		until = min(until, l.past(now))
	}
	for _, c := range l.window.overdue() {
		until = min(until, after(c))
	}
	if l.cfg.Memory.Behind() {
		until = min(until, l.cfg.Memory.OldestDue())
	}
	return until
}

// deepPace keeps reads of the deep past short, and rare where they are not.
type deepPace struct {
	shards    int // of one read
	restUntil time.Time
}

const (
	// deepBudget is what a deep read may take, and rowBudget what each row it finds may add.
	deepBudget = 50 * time.Millisecond
	rowBudget  = 25 * time.Microsecond
	// deepRest is for how many times its duration a deep read rests that has found little, and
	// longestRest what that may come to: after a read that was too long by far, the next is not.
	deepRest    = 3
	longestRest = 2 * time.Second
)

func (p *deepPace) rests() bool { return time.Now().Before(p.restUntil) }

// observe adapts to a read of some shards that took that long and found so many rows.
func (p *deepPace) observe(took time.Duration, shards, rows, page int) {
	switch budget := deepBudget + time.Duration(rows)*rowBudget; {
	case took > budget:
		p.shards = max(1, int(time.Duration(shards)*budget/took))
	case took < deepBudget/4 && shards == p.shards:
		p.shards = min(driver.Shards, 2*shards)
	}
	if rows < page/8 {
		p.restUntil = time.Now().Add(min(deepRest*took, longestRest))
	}
}
