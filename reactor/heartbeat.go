package reactor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// heartbeat keeps the membership alive and follows what it gives us: shards go to the
// loader, leased lanes to their runners.
type heartbeat struct {
	member   beatingMember
	leases   *leases
	lanes    *lanes
	loader   shardOwner
	static   driver.ShardSet // the fixed share; 0: the share that the membership gives
	clock    *clock
	log      *slog.Logger
	shards   *atomic.Int64 // statistic: written here, read by Stats alone
	progress *progress
	pulse    *pulse
	snapshot func() driver.Snapshot // how the instance is doing

	ends []laneEnd // owned by run: ends of runners that came while heartbeats failed, and are not handled yet
}

// beatingMember is what the heartbeat needs of driver.Member.
type beatingMember interface {
	Beat(ctx context.Context) (driver.Holding, error)
	TTL() time.Duration
	WantLanes(n int)
	Report(s driver.Snapshot)
	ReleaseShards(ctx context.Context) error
}

// shardOwner is what the heartbeat needs of the loader.
type shardOwner interface {
	Own(shards driver.ShardSet)
}

const (
	// mutePatience is how long an instance may get no answer on the connections of its claims
	// before it stops renewing its leases, in multiples of its time to live.
	mutePatience = 3
	// longestBeatPause bounds the pause after a heartbeat that failed: after a longer one, the
	// others would take us for dead.
	longestBeatPause = time.Second / 2
)

// run sends heartbeats until soft has ended and all lanes are shut down, or hard ends. It
// returns ErrDeposed if the membership is over, or a lane's error that ends the whole instance.
func (h *heartbeat) run(soft, hard context.Context) error {
	defer h.leases.end()
	h.pulse.begin()
	defer h.pulse.end()
	var (
		failures ratelog.Limiter
		pause    = wait.Backoff{Most: longestBeatPause}
		stopping bool
	)
	for {
		h.pulse.work() // it never rests for longer than a third of its time to live
		switch err := h.renew(soft, hard); {
		case err == nil:
			pause.Reset()
			failures.OK(h.log, "the membership is in order again")
		case errors.Is(err, driver.ErrDeposed):
			h.leases.lapse() // whatever our clock says: nothing that is queued is sent any more
			return err
		case hard.Err() != nil:
			return nil // the heartbeat was cancelled by the end of the grace, or by another part's error
		default:
			h.leases.lapse()
			failures.Fail(h.log, slog.LevelWarn, "cannot renew the leases; trying again", "err", err)
			if err := h.awaitRetry(hard, pause.Take()); err != nil || hard.Err() != nil {
				return err
			}
			continue
		}
		over, err := h.rest(soft, hard, &stopping)
		if over || err != nil {
			return err
		}
	}
}

// awaitRetry waits after a heartbeat that failed. To handle the end of a runner takes the
// database, so that waits for a heartbeat that succeeds; an error that ends the instance does
// not wait.
func (h *heartbeat) awaitRetry(hard context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-hard.Done():
			return nil
		case end := <-h.lanes.ends:
			if fatal := (*fatalError)(nil); errors.As(end.why, &fatal) {
				return fatal.err
			}
			h.ends = append(h.ends, end)
		case <-timer.C:
			return nil
		}
	}
}

// rest handles events until it is time for the next heartbeat. over tells that no heartbeat is
// to follow.
func (h *heartbeat) rest(soft, hard context.Context, stopping *bool) (over bool, err error) {
	timer := time.NewTimer(wait.Jitter(h.member.TTL() / 3))
	defer timer.Stop()
	for len(h.ends) > 0 {
		end := h.ends[0]
		h.ends = h.ends[1:]
		if lost, err := h.lanes.ended(hard, end, soft.Err() != nil); lost || err != nil {
			return false, err
		}
	}
	for !*stopping || h.lanes.alive > 0 {
		stop := soft.Done()
		if *stopping {
			stop = nil
		}
		select {
		case <-hard.Done():
			return true, nil
		case <-stop:
			*stopping = true
			h.releaseShards(hard)
			// A heartbeat at once gives the shards to others, also to those that get no
			// notification.
			return false, nil
		case end := <-h.lanes.ends:
			if lost, err := h.lanes.ended(hard, end, soft.Err() != nil); lost || err != nil {
				return false, err // a heartbeat at once, so that somebody adopts the lane
			}
		case <-h.leases.beatNow:
			return false, nil
		case <-timer.C:
			return false, nil
		}
	}
	return true, nil
}

// renew sends one heartbeat and applies its answer.
func (h *heartbeat) renew(soft, hard context.Context) error {
	h.member.WantLanes(h.lanes.want())
	h.member.Report(h.snapshot())
	begun := h.clock.local()
	holding, err := h.beat(hard)
	if err != nil {
		return err
	}
	h.progress.beaten.touch()
	if soft.Err() == nil {
		shards := holding.Shards
		if h.static != 0 {
			shards = h.static
		}
		h.loader.Own(shards)
		h.shards.Store(int64(shards.Len()))
	}
	h.lanes.hold(soft, hard, holding.Leases)
	if doubted := h.leases.renew(begun, holding.Leases); doubted {
		h.lanes.resume()
	}
	return nil
}

func (h *heartbeat) beat(ctx context.Context) (driver.Holding, error) {
	// An instance whose heartbeats arrive but whose claims don't must not keep its share.
	if age := h.progress.answered.age(); age > mutePatience*h.member.TTL() {
		h.clock.doubt.Set() // read the clock at once: after an outage everything waits for an answer
		return driver.Holding{}, fmt.Errorf("the database has answered nothing but heartbeats for %v; the others may take over", age.Round(time.Second))
	}
	ctx, cancel := context.WithTimeout(ctx, h.member.TTL())
	defer cancel()
	return h.member.Beat(ctx)
}

// releaseShards lets the others start on our share while the lanes shut down.
func (h *heartbeat) releaseShards(hard context.Context) {
	h.loader.Own(0)
	if hard.Err() != nil {
		return // without a grace, Leave follows at once, and releases the shards
	}
	ctx, cancel := context.WithTimeout(hard, h.member.TTL())
	defer cancel()
	if err := h.member.ReleaseShards(ctx); err != nil && ctx.Err() != context.Canceled {
		h.log.Warn("could not release the shards; the others will notice", "err", err)
	}
}
