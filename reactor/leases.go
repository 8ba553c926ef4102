package reactor

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// leases are what allows the instance to act: the lanes that are ours according to the latest
// heartbeat, and until when that is certain.
//
// The heartbeat writes them; lanes read them.
type leases struct {
	clock   *clock
	log     *slog.Logger
	member  leaseMember
	beatNow wait.Signal

	// until is the local instant (of clock) until which the leases are ours for certain.
	until atomic.Int64

	mu      sync.Mutex
	beats   int64           // guarded by mu: successful heartbeats
	held    map[int32]int64 // guarded by mu: lanes of the latest heartbeat, and their epochs
	over    bool            // guarded by mu: no more heartbeats will come
	changed chan struct{}   // guarded by mu: closed when beats or over changes
}

// leaseMember is what leases need of driver.Member.
type leaseMember interface {
	TTL() time.Duration
	ReleaseLane(ctx context.Context, lease driver.Lease) error
}

func newLeases(c *clock, log *slog.Logger, member leaseMember) *leases {
	return &leases{clock: c, log: log, member: member, beatNow: wait.NewSignal(), changed: make(chan struct{})}
}

// good reports whether our leases hold for certain: the latest heartbeat succeeded, and it
// began less than a TTL ago.
func (l *leases) good() bool { return int64(l.clock.local()) < l.until.Load() }

// renew notes a heartbeat that succeeded: the leases are ours for another TTL, counted from
// before it was sent. It reports whether the leases were in doubt before.
func (l *leases) renew(begun time.Duration, held []driver.Lease) (doubted bool) {
	doubted = !l.good()
	l.until.Store(int64(begun + l.member.TTL()))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.beats++
	l.held = make(map[int32]int64, len(held))
	for _, lease := range held {
		l.held[lease.Lane] = lease.Epoch
	}
	l.tell()
	return doubted
}

// lapse notes a heartbeat that failed. Our database session may be gone, and then the others
// take us for dead: nothing is sent until a heartbeat succeeds.
func (l *leases) lapse() { l.until.Store(0) }

// end notes that no more heartbeats will come.
func (l *leases) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.tell()
}

// tell wakes whoever waits for a change. The caller holds mu.
func (l *leases) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// confirm waits for a heartbeat that began after the call and reports whether it still had the
// lane with the epoch of the lease. A different epoch usually means that somebody else has had
// the lane in between, and has published what we take for unsent, even if the lane is ours
// again. Such an epoch is larger than ours by at least two. An epoch that is smaller, or larger
// by one, comes from our own claimer, which has raised the epoch (driver.Journal.ResolveClaim):
// either the heartbeat read the row before that, or the claimer does not know yet that it
// succeeded.
func (l *leases) confirm(ctx context.Context, lease func() driver.Lease) bool {
	// The heartbeat under way may have begun before the call; the one after it begins later.
	enough := l.count() + 2
	for {
		l.mu.Lock()
		done, over, held, changed := l.over || l.beats >= enough, l.over, l.held, l.changed
		l.mu.Unlock()
		if done {
			now := lease()
			epoch, ours := held[now.Lane]
			return ours && epoch <= now.Epoch+1 && !over && ctx.Err() == nil
		}
		l.beatSoon()
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

func (l *leases) count() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.beats
}

// beatSoon asks for a heartbeat.
func (l *leases) beatSoon() { l.beatNow.Set() }

// release gives a lane back.
func (l *leases) release(ctx context.Context, lease driver.Lease) {
	ctx, cancel := context.WithTimeout(ctx, l.member.TTL())
	defer cancel()
	if err := l.member.ReleaseLane(ctx, lease); err != nil {
		l.log.Warn("could not release a lane; the others will notice", "lane", lease.Lane, "err", err)
	}
}
