package testkit

import (
	"errors"
	"os"
	"testing"

	"github.com/job-publisher/reactor/internal/netfault"
)

// NewWire makes a network that really drops packets (netfault.Wire). It is closed when the test
// ends. NewWire returns nil if we are not root. A test then has to end, or test less.
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
