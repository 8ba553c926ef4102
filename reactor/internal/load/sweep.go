package load

import (
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/wait"
)

// sweep is the safety net: it reads again the rows that should already be in memory. So it
// finds rows that were committed late and not announced: by a transaction that was open for
// longer than the notify horizon, without triggers, under session_replication_role, or while
// the feed was down.
//
// In each loop the sweep covers, for all shards, everything from the beginning of time to two
// loops from now. So a job that nobody announced is found within one loop of its commit, or a
// loop before it is due, if that is later.
//
// The scans are index scans of unprocessed rows, and usually the past has none, so they cost
// almost nothing: 64 descents of the index. But while somebody holds an old snapshot, the index
// keeps entries of processed rows, and a scan from the beginning of time walks them all, at 1.3
// s per million. Then only the near range, the last five loops and the next two, is read each
// loop for all shards. The deep past is read a few shards at a time, as many as take about 50
// ms (deepPace). A late row that is overdue by more than five loops is then found after at most
//
//	the time in which all shards are walked, times four, and a loop
//
// and every other row as before. While jobs fall due faster than they are claimed, there is a
// sweep every few loops only, up to the oldest of these jobs: rows that are due later have to
// wait anyway.
//
// The sweep ends where the window has not read yet: the window reads those rows.
type sweep struct {
	next  time.Time       // when the next round begins
	last  time.Time       // when the last round began that was not skipped
	near  []driver.Cursor // places left in this round
	deep  []driver.Cursor // places left in this rotation through the deep past, which may take several rounds
	whole bool            // deep includes the near range
}

const (
	// sweepBack is how many loops before now the near range begins.
	sweepBack      = 5
	leastSweepBack = 5 * time.Second
	// sweepRarely: while jobs fall due faster than they are claimed, there is one sweep in this
	// many loops, as the rows that it finds have to wait anyway.
	sweepRarely = 5
)

// past is the due time at which the deep past ends.
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
	if len(cursors) > l.cfg.Page { // LoadWindow would skip the shards beyond the limit
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

// sweepUntil is where a sweep ends. While jobs fall due faster than they are claimed, rows that
// are due after the oldest in memory are left out: they are many, and memory knows them.
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

// deepPace keeps reads of the deep past short, and makes them rare if they are not.
type deepPace struct {
	shards    int // how many shards one read covers
	restUntil time.Time
}

const (
	// deepBudget is how long a deep read may take, and rowBudget how much longer for each row
	// that it finds.
	deepBudget = 50 * time.Millisecond
	rowBudget  = 25 * time.Microsecond
	// deepRest is the pause after a deep read that found little, as a multiple of its duration.
	// longestRest bounds that pause: after a read that took far too long, the next one covers
	// fewer shards, and is shorter.
	deepRest    = 3
	longestRest = 2 * time.Second
)

func (p *deepPace) rests() bool { return time.Now().Before(p.restUntil) }

// observe adapts the pace to a read: its number of shards, its duration, and the number of rows
// found.
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
