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

// A commit is in the log before others can see it: a moment before, or, where commits wait for a
// synchronous standby, for as long as that takes. Whoever looked for its rows at once might
// not find them, and would not look again. So each commit waits until a snapshot of the
// database shows it, and is announced then.
//
// One question serves all that wait, and while one is being asked the next ones gather. What
// is due beyond the notify horizon, which is beyond what anybody has loaded, is in no hurry: it
// is asked about once a second, and need not be announced if that is still so when it can be
// seen, for the window has to come by it.

// commits are those that were received and not yet announced.
type commits struct {
	mu    sync.Mutex
	near  []written     // guarded by mu: with rows that are due within the notify horizon
	far   []written     // guarded by mu
	held  int           // guarded by mu: taken, and cannot be seen yet
	some  chan struct{} // one-slot: there are some to ask about
	taken chan struct{} // one-slot: there is room again
}

const (
	// mostCommits wait at once. With more of them the stream is not read on.
	mostCommits = 1 << 14
	// askPause is the time between two questions under load: one serves many then. It is also
	// the first pause before commits that are still hidden are asked about again, which grows to
	// mostAskPause.
	askPause, mostAskPause = 2 * time.Millisecond, 100 * time.Millisecond
	askBurst               = 4
	// farPause is the time between two questions about what is far away.
	farPause = time.Second
	// notifyHorizon is that of sql/triggers.sql.
	notifyHorizon = time.Minute
)

func (c *commits) init() { c.some, c.taken = make(chan struct{}, 1), make(chan struct{}, 1) }

// put adds a commit that was sent at a time, and waits for room.
func (c *commits) put(ctx context.Context, w written, sent driver.DBTime) error {
	for {
		c.mu.Lock()
		if waiting := len(c.near) + len(c.far) + c.held; waiting < mostCommits {
			ask := w.membership || w.earliest.Sub(sent) < notifyHorizon
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

// take adds all of them to those that cannot be seen yet.
func (c *commits) take(wait []written) []written {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait = append(append(wait, c.near...), c.far...)
	c.near, c.far, c.held = c.near[:0], c.far[:0], len(wait)
	return wait
}

// keep notes how many of those that were taken cannot be seen yet.
func (c *commits) keep(n int) {
	c.mu.Lock()
	c.held = n
	c.mu.Unlock()
	signal(c.taken)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // there is one
	}
}

// announce gives the hints of the commits that can be seen.
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
		time.Sleep(asks.take(time.Now())) // and more may gather
		wait = f.commits.take(wait)
		if len(wait) == 0 {
			continue
		}
		before := len(wait)
		// Without an answer nobody could read the rows either.
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

// snapshot is what a statement that began now would see: transactions before min are over,
// those from max on have not begun, and those in between are over unless they are listed.
type snapshot struct {
	min, max uint32
	open     []uint32
}

// shows reports whether a transaction is over. Its number wraps around, and is never further
// away than half of them all.
func (s snapshot) shows(xid uint32) bool {
	switch {
	case int32(xid-s.min) < 0:
		return true
	case int32(xid-s.max) >= 0:
		return false
	}
	return !slices.Contains(s.open, xid)
}

// snapshot takes one, and tells the time after it.
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
