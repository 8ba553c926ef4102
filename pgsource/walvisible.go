package pgsource

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// A commit is in the log before others can see it: usually a moment before, but where commits wait
// for a synchronous standby, as long as that takes. A loader that searched for the rows at once
// might not find them, and would not search again. So each commit waits until a snapshot of the
// database shows it, and is announced then.
//
// One query answers for all commits that wait; while it runs, the next commits collect. Jobs that
// are due beyond the notify horizon are beyond what any instance has loaded, so they are not
// urgent: the query for them runs once a second. They need no announcement if they are still beyond
// the horizon when they are visible, because the loading window will reach them later.
//
// Nor are commits urgent that have rows in others' shards only: every instance receives all commits,
// and if each asked about all of them, the queries per commit would grow with the number of
// instances. They are not dropped, because a shard of theirs may become ours before they are
// visible: what we read of a shard when it becomes ours does not show them.

// commits are the commits that were received and not yet announced.
type commits struct {
	mu    sync.Mutex
	near  []written     // guarded by mu: have rows of our shards that are due within the notify horizon
	far   []written     // guarded by mu: all others
	held  int           // guarded by mu: how many were taken and are not visible yet
	some  chan struct{} // one slot: there are commits to ask about
	taken chan struct{} // one slot: there is room again
}

const (
	// mostCommits is how many commits may wait. With more, the stream is not read on.
	mostCommits = 1 << 14
	// askPause is the time between two queries under load, so that one query serves many commits;
	// askBurst is how many queries may follow each other without a pause. askPause is also the
	// first pause before a repeated query about commits that are not visible yet; that pause grows
	// up to mostAskPause.
	askPause, mostAskPause = 2 * time.Millisecond, 100 * time.Millisecond
	askBurst               = 4
	// farPause is the time between two queries about commits in far.
	farPause = time.Second
	// notifyHorizon is the horizon of sql/triggers.sql.
	notifyHorizon = time.Minute
)

func (c *commits) init() { c.some, c.taken = make(chan struct{}, 1), make(chan struct{}, 1) }

// put adds a commit, and waits while there is no room. sent is when the server sent it, and owned
// are the shards that are ours.
func (c *commits) put(ctx context.Context, w written, sent driver.DBTime, owned driver.ShardSet) error {
	for {
		c.mu.Lock()
		if waiting := len(c.near) + len(c.far) + c.held; waiting < mostCommits {
			ask := w.membership || w.shards&owned != 0 && w.earliest.Sub(sent) < notifyHorizon
			if ask {
				c.near = append(c.near, w)
			} else {
				c.far = append(c.far, w)
			}
			c.mu.Unlock()
			if ask || waiting >= mostCommits/2 {
				signal(c.some)
			}
			return nil
		}
		c.mu.Unlock()
		signal(c.some)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.taken:
		}
	}
}

// take appends all commits to those that wait for becoming visible, and returns both.
func (c *commits) take(wait []written) []written {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait = append(append(wait, c.near...), c.far...)
	c.near, c.far, c.held = c.near[:0], c.far[:0], len(wait)
	return wait
}

// keep records how many of the taken commits are not visible yet.
func (c *commits) keep(n int) {
	c.mu.Lock()
	c.held = n
	c.mu.Unlock()
	signal(c.taken)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // a signal is pending already
	}
}

// announce gives the hints of commits as they become visible.
func (f *walFeed) announce(ctx context.Context) error {
	var wait []written
	far := time.NewTicker(farPause)
	defer far.Stop()
	asks := pacer{every: askPause, burst: askBurst}
	pause := askPause
	for {
		var again <-chan time.Time
		if len(wait) > 0 {
			again = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.commits.some:
		case <-again:
		case <-far.C:
		}
		time.Sleep(asks.take(time.Now())) // meanwhile more commits may arrive
		wait = f.commits.take(wait)
		if len(wait) == 0 {
			continue
		}
		before := len(wait)
		// If the database does not answer, nobody could read the rows either.
		if now, at, err := f.snapshot(ctx); err == nil {
			wait = slices.DeleteFunc(wait, func(w written) bool {
				if !now.shows(w.xid) {
					return false
				}
				if w.membership {
					f.on(driver.Hint{Kind: driver.HintMembership})
				}
				if w.rows > 0 && w.earliest.Sub(at) < notifyHorizon {
					f.on(w.hint())
				}
				return true
			})
			f.commits.keep(len(wait))
		}
		pause = min(2*pause, mostAskPause)
		if len(wait) < before {
			pause = askPause
		}
	}
}

// snapshot says which transactions a statement that began now would see: those before min have
// ended, those from max on have not begun, and those in between have ended unless they are in open.
type snapshot struct {
	min, max uint32
	open     []uint32
}

// shows reports whether a transaction has ended. The number wraps around, and is never further away
// than half of the number space.
func (s snapshot) shows(xid uint32) bool {
	switch {
	case int32(xid-s.min) < 0:
		return true
	case int32(xid-s.max) >= 0:
		return false
	}
	return !slices.Contains(s.open, xid)
}

// snapshot reads a snapshot, and the time after it.
func (f *walFeed) snapshot(ctx context.Context) (s snapshot, at driver.DBTime, err error) {
	var (
		text string
		then dbTime
	)
	if err := f.hot.row(ctx, "SELECT pg_current_snapshot()::text, clock_timestamp()", nil, &text, &then); err != nil {
		return s, 0, f.failed("look at the open transactions", err)
	}
	s, err = parseSnapshot(text)
	return s, then.DBTime, err
}

// parseSnapshot reads "min:max:open,open,…", of 64 bits each.
func parseSnapshot(text string) (s snapshot, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return s, fmt.Errorf("a snapshot is %q", text)
	}
	number := func(text string) uint32 {
		n, parseErr := strconv.ParseUint(text, 10, 64)
		if parseErr != nil {
			err = fmt.Errorf("a snapshot is %q", text)
		}
		return uint32(n)
	}
	s.min, s.max = number(parts[0]), number(parts[1])
	if parts[2] != "" {
		for one := range strings.SplitSeq(parts[2], ",") {
			s.open = append(s.open, number(one))
		}
	}
	return s, err
}
