package pgsource_test

import (
	"context"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

// TestProbesAreShared: what one instance sends to probe the feed serves all of them, so that the
// number of probes does not grow with the number of instances.
func TestProbesAreShared(t *testing.T) {
	const instances, feedCheck, checks = 8, 250 * time.Millisecond, 12
	b := examine(t, testkit.NewDatabase(t))
	for range instances {
		s := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Feed: pgsource.FeedNotify, MaxConns: 2, FeedCheck: feedCheck})
		_, ended := listen(t, b.ctx, s)
		t.Cleanup(func() {
			select {
			case err := <-ended:
				t.Errorf("a feed ended although there were probes: %v", err)
			default:
			}
		})
	}
	// The first ones send a probe before they have heard any.
	b.exec("LISTEN reactor_probe")
	ctx, cancel := context.WithTimeout(b.ctx, checks*feedCheck)
	defer cancel()
	probes := 0
	for {
		if _, err := b.conn.WaitForNotification(ctx); err != nil {
			break
		}
		probes++
	}
	// One sends every 3/4 to 1 of the time; some send together.
	if probes < checks/2 || probes > 3*checks {
		t.Errorf("%d instances have sent %d probes in %d checks, want about %d", instances, probes, checks, checks*4/3)
	}
}
