package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// drawBlackHole turns the connections of an instance to one server, or to both, into black holes,
// while new connections work. This happens when a host loses power and its address moves, or when
// a NAT drops the state of its connections. The kernels acknowledge everything, so only the
// program's own timeouts detect it. The servers reset their side after a while, as by keepalive;
// until then the dead sessions keep their locks.
func drawBlackHole(r draw) action {
	i, which, keepalive := r.instance(), r.IntN(3), r.duration(time.Second, 8*time.Second)
	text := [...]string{"the database", "the broker", "both servers"}[which]
	return action{
		fmt.Sprintf("instance %d and %s: open connections become black holes, the server resets them after %v", i, text, keepalive),
		func(ctx context.Context, d *deployment) error {
			in := d.instances[i]
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
