package reactor

import (
	"context"
	"log/slog"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// feedFollower passes the feed's hints on, and reopens the feed when it is lost.
type feedFollower struct {
	feed   hintSource
	loader hintTaker
	lanes  journalDoubter
	// beatNow asks for a heartbeat.
	beatNow wait.Signal
	log     *slog.Logger
	stats   *counters // written here, read by Stats alone
}

// hintSource is what a feedFollower needs of driver.Feed.
type hintSource interface {
	Listen(ctx context.Context, on func(driver.Hint)) error
}

// hintTaker is what a feedFollower needs of the loader.
type hintTaker interface {
	Hint(h driver.Hint)
	FeedLost()
}

// journalDoubter is what a feedFollower needs of the lanes.
type journalDoubter interface{ doubtJournals() }

// run listens until ctx ends.
func (f *feedFollower) run(ctx context.Context) {
	var (
		failures ratelog.Limiter
		pause    wait.Backoff
		others   = beatRequests{beatNow: f.beatNow}
	)
	for {
		stood := false
		err := f.feed.Listen(ctx, func(h driver.Hint) {
			switch h.Kind {
			case driver.HintMembership:
				others.request()
				return
			case driver.HintFailover:
				f.lanes.doubtJournals()
				f.beatNow.Set()
				return
			case driver.HintConnected:
				stood = true
				f.stats.feedUp.Store(true)
				pause.Reset()
				failures.OK(f.log, "the feed of new jobs works again")
				// The database may be another one than before, and notifications about shards
				// and lanes were missed meanwhile.
				f.lanes.doubtJournals()
				f.beatNow.Set()
			}
			f.loader.Hint(h)
		})
		f.stats.feedUp.Store(false)
		f.loader.FeedLost()
		if ctx.Err() != nil {
			return
		}
		if stood {
			f.stats.feedLosses.Add(1)
		}
		failures.Fail(f.log, slog.LevelWarn, "lost the feed of new jobs; sweeping until it is back", "err", err)
		if !pause.Sleep(ctx) {
			return
		}
	}
}
