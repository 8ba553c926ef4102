package pgsource

import (
	"context"
	"testing"

	"github.com/job-publisher/reactor/internal/testkit"
)

// TestPoolStats: the connections that are counted are those that there are, before, while and after a
// source is open.
func TestPoolStats(t *testing.T) {
	t.Parallel()
	s, err := New(Config{DatabaseURL: testkit.NewDatabase(t), Logger: testkit.Logger(t), MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.PoolStats(); got != (PoolStats{}) {
		t.Errorf("before it is open: %+v", got)
	}
	ctx := context.Background()
	if err := s.Open(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := s.work.acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.PoolStats(); got.Open-got.Idle != 1 || got.Open < 2 || got.Most != 4+1+1 {
		t.Errorf("with one connection in use: %+v", got)
	}
	conn.release()
	if got := s.PoolStats(); got.Open != got.Idle || got.Waiting != 0 {
		t.Errorf("with none in use: %+v", got)
	}
	s.Close()
	if got := s.PoolStats(); got != (PoolStats{}) {
		t.Errorf("when it is closed: %+v", got)
	}
}
