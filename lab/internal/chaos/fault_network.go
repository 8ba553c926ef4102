package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// drawBlackHole makes the connections of an instance to one server, or to both, go dead
// without a word, while new ones work: a host lost power behind an address that moved, or
// a NAT forgot its flows. The kernels acknowledge everything, so only the program's own
// deadlines help it. The servers give their side up after a while, as by keepalive;
// until then the dead sessions keep what they hold.
func drawBlackHole(d draw) action {
	i, which, keepalive := d.instance(), d.IntN(3), d.duration(time.Second, 8*time.Second)
	text := [...]string{"the database", "the broker", "both servers"}[which]
	return action{
		fmt.Sprintf("instance %d and %s: what is open goes dead, the server finds out after %v", i, text, keepalive),
		func(ctx context.Context, w *world) error {
			in := w.instances[i]
			var proxies []*netfault.Proxy
			if which != 1 {
				proxies = append(proxies, in.toDatabase()...)
			}
			if which != 0 {
				proxies = append(proxies, in.broker)
			}
			for _, p := range proxies {
				p.BlackHole()
			}
			deploy.Sleep(ctx, keepalive)
			for _, p := range proxies {
				p.ResetServerSide()
			}
			return nil
		},
	}
}
