package load

import (
	"context"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// sweep is the safety net: it reads again the rows that should already be in memory. So it
// finds rows that were committed late and not announced: by a transaction that was open for
// longer than the notify horizon, without triggers, under session_replication_role, or while
// the feed was down.
//
// In each loop the sweep covers, for all shards, everything from the beginning of time to two
// loops from now. So a job that nobody announced is found within one loop of its commit, or a
// loop before it is due, if that is later. New shards begin a loop at once, since a window that has to
// walk their past gets late to what is due now. (To leave that to the loop that the feed begins when it
// connects was not enough: it may connect before the first heartbeat has brought any shards.)
//
// The scans are index scans of unprocessed rows, and usually the past has none, so they cost
// almost nothing: 64 descents of the index. But while somebody holds an old snapshot, the index
// keeps entries of processed rows, and a scan from the beginning of time walks them all, at 1.3
// s per million. Where that would take more than a hundredth of the time, only the near range, the
// last five loops and the next two, is read each loop for all shards. The deep past is then read
// for a reason only:
//
//   - All of it, when the feed stands again, as anything may have been missed; and all the
//     time, where new jobs are not announced.
//   - What is due since then, when transactions have ended that had written something, and
//     were open for longer than five loops (Settled). What they had written may be due in the
//     past by now, and need not have been announced: it was not due soon when it was written.
//   - All of it, a few shards at a time, in a hundredth of the time, for what there should not
//     be: rows without triggers that were overdue when they were written.
//
// Reads with a reason take some 50 ms each, and rest three times as long (deepPace). So a late
// row that is overdue by more than five loops is found, after its commit, at most in
//
//	a loop, if walking the past takes less than a hundredth of a loop
//	two loops, and four times what walking takes, if there was a reason: one of the first two
//	a hundred times what walking takes otherwise (idlePace)
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
	late  []driver.Cursor // places left of what transactions may have written that were open for long
	deep  []driver.Cursor // places left in this rotation through the deep past, which may take several rounds
	whole bool            // deep includes the near range
	// hurried: the rotation has a reason, and does not keep to its hundredth of the time. No
	// rotation keeps to it while new jobs are not announced.
	hurried bool
	missed  bool // something may have been missed: the next rotation is hurried

	// asked is the latest answer of Settled, and settled the one with which the last round was
	// planned: what was written before it was visible to that round. Neither is known while
	// rounds cover everything.
	asked, settled driver.DBTime
	announced      bool // the latest answer of Config.Announced
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
	case l.sweepNow || l.gained:
	case t.Before(s.next) || l.scanner.unfinished():
		return
	case l.cfg.Memory.Behind() && l.feedUp && t.Sub(s.last) < sweepRarely*l.cfg.Loop:
		s.next = t.Add(l.cfg.Loop / 8) // it may be over in a moment
		return
	}
	all := l.window.front.set
	shards := all.Minus(l.window.fresh)
	if l.sweepNow {
		s.deep, s.missed = nil, true
	}
	l.sweepNow, l.gained = false, false
	s.next, s.last = t.Add(wait.Jitter(l.cfg.Loop)), t
	s.whole = l.scanner.deep.shards >= all.Len() && l.scanner.idle.cost(all.Len()) <= l.cfg.Loop/idleShare &&
		l.window.backlog.set == 0 && !l.cfg.Memory.Behind()
	s.near = nil
	if s.whole {
		s.late, s.asked, s.settled = nil, driver.DistantPast, driver.DistantPast
	} else {
		// With fresh shards: their windows may have to walk the past before they come here.
		s.near = l.nearCursors(all, now)
		l.planLate(now, shards)
	}
	// A rotation that nothing asks for takes long, and begins when all shards can take part in it.
	if s.whole || len(s.deep) == 0 && (s.missed || l.window.fresh == 0) {
		s.deep = cursorsAt(shards, driver.DistantPast)
		s.hurried, s.missed = s.missed, false
	}
}

// planLate plans to read what transactions have brought that were open for long. What they wrote,
// they wrote after the instant that was settled before they ended; if it was due soon, it was
// announced. So it is due after that instant. The caller holds mu.
func (l *Loader) planLate(now driver.DBTime, shards driver.ShardSet) {
	s := &l.scanner.sweep
	if s.asked <= s.settled {
		return
	}
	from := s.settled
	s.settled = s.asked
	if from >= l.past(now) {
		return // this round's near part, and those before, cover it
	}
	// What is still to be read goes on where it is, and first: news must not keep it from its end.
	for _, c := range s.late {
		shards = shards.Minus(1 << c.Shard)
	}
	s.late = append(s.late, cursorsAt(shards, max(from, driver.DistantPast))...)
}

// askWhatIsSettled asks before a round, if the round is to know. It is asked before anything is
// read, so that what is read has all that is settled. If there is no answer, there is none to the
// reads either, and they say so.
func (l *Loader) askWhatIsSettled(ctx context.Context) {
	announced := l.cfg.Announced()
	l.mu.Lock()
	s := &l.scanner.sweep
	s.announced = announced
	ask := !s.whole && !l.awaitsFeed() && (l.sweepNow || l.gained || !time.Now().Before(s.next) && !l.scanner.unfinished())
	l.mu.Unlock()
	if !ask {
		return
	}
	settled, err := l.cfg.Source.Settled(ctx)
	if err != nil {
		return
	}
	l.mu.Lock()
	s.asked = settled
	l.mu.Unlock()
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
	list, rotates := &s.near, false
	if kind == deepSweep {
		switch {
		case l.scanner.deep.rests():
			return pageRead{}
		case len(s.late) > 0:
			list = &s.late
		case !s.whole && !s.hurried && l.feedUp && s.announced && l.scanner.idle.rests():
			return pageRead{}
		default:
			list, rotates = &s.deep, true
		}
	}
	var cursors []driver.Cursor
	for len(*list) > 0 && (kind == nearSweep || len(cursors) < l.scanner.deep.shards) {
		c := (*list)[0]
		*list = (*list)[1:]
		mine := l.window.front.set
		if kind == deepSweep {
			mine = mine.Minus(l.window.fresh)
		}
		if mine.Has(c.Shard) && after(c) < until {
			cursors = append(cursors, c)
		}
	}
	if len(cursors) > l.cfg.Page { // LoadWindow would skip the shards beyond the limit
		*list = append(cursors[l.cfg.Page:len(cursors):len(cursors)], *list...)
		cursors = cursors[:l.cfg.Page]
	}
	return pageRead{
		cursors: cursors, until: until, limit: l.cfg.Page, deep: kind.deep(), rotates: rotates,
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

// idlePace keeps the reads that nothing asks for to a hundredth of the time. It knows what walking
// all of a shard's past costs.
type idlePace struct {
	perShard, last time.Duration
	restUntil      time.Time
}

// idleShare is the reciprocal of that share.
const idleShare = 100

func (p *idlePace) rests() bool { return time.Now().Before(p.restUntil) }

// cost is what walking the past of so many shards takes.
func (p *idlePace) cost(shards int) time.Duration { return time.Duration(shards) * p.perShard }

// observe learns from a read of some shards from the beginning of time. A read that has found much
// was worth its time, and a single slow one among fast ones says more about the machine than about
// the table.
func (p *idlePace) observe(took time.Duration, shards, rows, page int) {
	if rows >= page/8 || shards == 0 {
		return
	}
	each := took / time.Duration(shards)
	p.perShard, p.last = min(each, p.last), each
	p.restUntil = time.Now().Add((idleShare - 1) * p.cost(shards))
}
