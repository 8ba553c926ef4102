package reactor

import (
	"context"
	"sync"

	"github.com/job-publisher/reactor/reactor/driver"
)

// identity finds out, once, whether the broker knows clients by their client ids. Where it
// does not, all lanes are one session, and nothing may be sent.
type identity struct {
	mu      sync.Mutex
	checked bool // guarded by mu
}

// check is for a lane that has just connected, before it sends anything. The others wait.
func (i *identity) check(ctx context.Context, sink driver.Sink, qos byte) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.checked {
		return nil
	}
	err := sink.CheckIdentity(ctx, qos)
	i.checked = err == nil
	return err
}

// again has it checked once more: a broker that was started anew may have been
// configured anew.
func (i *identity) again() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.checked = false
}
