package testkit

import (
	"errors"
	"os"
	"testing"

	"github.com/job-publisher/reactor/internal/netfault"
)

// NewWire makes a network whose packets really vanish, which is closed when the test ends.
// It is nil where it cannot be had: elsewhere than on Linux, and for others than root. A
// test then ends, or proves less.
func NewWire(t testing.TB) *netfault.Wire {
	t.Helper()
	w, err := netfault.NewWire()
	if errors.Is(err, netfault.ErrNoWire) && os.Geteuid() != 0 {
		t.Logf("testkit: %v", err)
		return nil
	}
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	t.Cleanup(w.Close)
	return w
}
