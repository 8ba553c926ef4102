package pgsource

import (
	"context"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// ExamineFor is Examine with another age from which a snapshot is old.
func ExamineFor(ctx context.Context, cfg Config, long time.Duration) ([]driver.Finding, error) {
	return examine(ctx, cfg, long)
}

// QueueFinding is what is said about a queue of notifications of which a part is in use.
func QueueFinding(used float64) driver.Finding { return queueFinding(used) }
