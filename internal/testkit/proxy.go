package testkit

import (
	"testing"

	"github.com/job-publisher/reactor/internal/netfault"
)

// NewProxy starts a proxy to a server. The server is host:port, or a URL that contains them.
// The proxy is closed when the test ends.
func NewProxy(t testing.TB, server string) *netfault.Proxy {
	t.Helper()
	p, err := netfault.New(server)
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	t.Cleanup(p.Close)
	return p
}
