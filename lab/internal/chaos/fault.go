package chaos

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// fault is a way to hurt the deployment.
type fault struct {
	name   string
	weight int // how often it is drawn, relative to the others
	draw   func(d draw) action
	// apart: it breaks something on which the strictest promise rests, so the judge is
	// milder where it is used. It must be asked for.
	apart bool
	// harmless: it must not delay a job that it is not about. See latenessLimit.
	harmless bool
}

// FaultNames lists the faults there are.
func FaultNames() []string {
	names := make([]string, len(faults))
	for i, f := range faults {
		names[i] = f.name
	}
	return names
}

// Everything lists the faults that leave every promise standing: all but "failover", which
// loses commits, and "brokerkill", which loses what the broker has not saved.
func Everything() []string {
	var names []string
	for _, f := range faults {
		if !f.apart {
			names = append(names, f.name)
		}
	}
	return names
}

// errBusy: what should be hurt is down already.
var errBusy = errors.New("skipped: it is down already")

var faults = []fault{
	// Instances.
	{name: "kill", weight: 8, draw: func(d draw) action {
		i, back := d.instance(), d.duration(50*time.Millisecond, 500*time.Millisecond)
		if d.IntN(3) == 0 {
			back *= 10
		}
		return action{fmt.Sprintf("instance %d with SIGKILL, back after %v", i, back), func(ctx context.Context, w *world) error {
			return w.instances[i].kill(back)
		}}
	}},
	{name: "freeze", weight: 3, draw: func(d draw) action {
		// The membership gives an instance up after 3 s.
		i, hold := d.instance(), d.duration(100*time.Millisecond, 7*time.Second)
		return action{fmt.Sprintf("instance %d with SIGSTOP, SIGCONT after %v", i, hold), func(ctx context.Context, w *world) error {
			return w.instances[i].freeze(ctx, hold)
		}}
	}},
	{name: "stop", weight: 2, draw: func(d draw) action {
		i := d.instance()
		return action{fmt.Sprintf("instance %d with SIGTERM, and start it again", i), func(ctx context.Context, w *world) error {
			return w.instances[i].signal(syscall.SIGTERM)
		}}
	}},

	// Servers.
	{name: "postgres", weight: 2, draw: func(d draw) action {
		how := d.IntN(3)
		down := d.duration(0, 3*time.Second)
		text := [...]string{"stopped fast", "stopped immediately", "killed"}[how]
		return action{fmt.Sprintf("%s, started after %v", text, down), func(ctx context.Context, w *world) error {
			return restart(ctx, &w.postgresDown, func() error {
				p := w.primary()
				return [...]func() error{p.Stop, p.StopImmediate, p.Kill}[how]()
			}, func(ctx context.Context) error { return w.primary().Start(ctx) }, down)
		}}
	}},
	{name: "broker", weight: 2, draw: func(d draw) action {
		down := d.duration(0, 3*time.Second)
		return action{fmt.Sprintf("stopped, started after %v", down), func(ctx context.Context, w *world) error {
			return restart(ctx, &w.brokerDown, w.broker.Stop, w.broker.Start, down)
		}}
	}},
	{name: "readonly", weight: 2, draw: drawReadOnly},
	{name: "failover", weight: 4, draw: drawFailover, apart: true},
	{name: "brokerkill", weight: 4, draw: drawBrokerKill, apart: true},
	{name: "backends", weight: 3, draw: func(d draw) action {
		share := d.Float64()
		return action{fmt.Sprintf("%.0f %% of all terminated", 100*share), func(ctx context.Context, w *world) error {
			return w.terminateBackends(ctx, share)
		}}
	}},

	// Connections.
	{name: "cut", weight: 4, draw: func(d draw) action {
		l, reset := d.link(), d.IntN(2) == 0
		return action{fmt.Sprintf("%s, reset %t", l, reset), func(ctx context.Context, w *world) error {
			if p := l.of(w); reset {
				p.Reset()
			} else {
				p.Cut()
			}
			return nil
		}}
	}},
	{name: "stall", weight: 3, draw: func(d draw) action {
		l, to, hold := d.link(), d.directions(), d.duration(50*time.Millisecond, 5*time.Second)
		return action{fmt.Sprintf("%s, %v, for %v", l, to, hold), func(ctx context.Context, w *world) error {
			l.of(w).Stall(to...)
			deploy.Sleep(ctx, hold)
			l.of(w).Resume(to...)
			return nil
		}}
	}},
	{name: "drop", weight: 3, draw: func(d draw) action {
		l, to, hold := d.link(), d.directions(), d.duration(50*time.Millisecond, 5*time.Second)
		return action{fmt.Sprintf("%s, %v, for %v, then reset", l, to, hold), func(ctx context.Context, w *world) error {
			l.of(w).Drop(to...)
			deploy.Sleep(ctx, hold)
			l.of(w).Reset()
			l.of(w).Resume(to...)
			return nil
		}}
	}},
	{name: "refuse", weight: 2, draw: func(d draw) action {
		l, hold := d.link(), d.duration(50*time.Millisecond, 3*time.Second)
		return action{fmt.Sprintf("%s, cut and not let in for %v", l, hold), func(ctx context.Context, w *world) error {
			l.of(w).Refuse()
			l.of(w).Cut()
			deploy.Sleep(ctx, hold)
			return l.of(w).Accept()
		}}
	}},
	{name: "blackhole", weight: 3, draw: drawBlackHole},
	{name: "packet", weight: 8, draw: func(d draw) action {
		i, t := d.instance(), d.trap()
		kinds := []byte{4, 5, 7, 3, 6}
		names := []string{"PUBACK", "PUBREC", "PUBCOMP", "PUBLISH", "PUBREL"}
		n := d.IntN(len(kinds))
		t.kind = kinds[n]
		return action{fmt.Sprintf("instance %d, %v %s", i, t, names[n]), func(ctx context.Context, w *world) error {
			in := w.instances[i]
			if n < 3 {
				in.fromBroker.arm(t)
			} else {
				in.toBroker.arm(t)
			}
			return nil
		}}
	}},
	{name: "commit", weight: 5, draw: func(d draw) action {
		i, t := d.instance(), d.trap()
		t.kind = 'C' // CommandComplete: the commit of a single statement has been made
		return action{fmt.Sprintf("instance %d, %v commit's answer", i, t), func(ctx context.Context, w *world) error {
			w.instances[i].fromDatabase.arm(t)
			return nil
		}}
	}},

	// Strangers, and load.
	{name: "locks", weight: 2, draw: func(d draw) action {
		rows, hold := 1+d.IntN(500), d.duration(100*time.Millisecond, 4*time.Second)
		return action{fmt.Sprintf("%d rows locked by an idle transaction for %v", rows, hold), func(ctx context.Context, w *world) error {
			return w.holdTransaction(ctx, hold, "SELECT FROM jobs WHERE NOT processed ORDER BY id DESC LIMIT $1 FOR UPDATE", rows)
		}}
	}},
	{name: "feed", weight: 2, draw: func(d draw) action {
		to := [...]string{"wal", "notify"}[d.IntN(2)]
		return action{"changed over to " + to, func(ctx context.Context, w *world) error { return w.changeFeed(ctx, to) }}
	}, harmless: true},
	{name: "rows", weight: 2, draw: drawRows, harmless: true},
	{name: "lockjob", weight: 2, draw: drawLockJob, harmless: true},
	{name: "table", weight: 1, draw: func(d draw) action {
		hold := d.duration(50*time.Millisecond, 2*time.Second)
		return action{fmt.Sprintf("locked for a change of its columns for %v", hold), func(ctx context.Context, w *world) error {
			return w.holdTransaction(ctx, hold, "LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
		}}
	}},
	{name: "connections", weight: 2, draw: func(d draw) action {
		hold := d.duration(500*time.Millisecond, 4*time.Second)
		return action{fmt.Sprintf("all taken for %v", hold), func(ctx context.Context, w *world) error {
			return w.exhaustConnections(ctx, hold)
		}}
	}},
	{name: "burst", weight: 3, draw: func(d draw) action {
		n, ahead := 500+d.IntN(5000), d.duration(0, 2*time.Second)
		return action{fmt.Sprintf("%d jobs at one instant, in %v", n, ahead), func(ctx context.Context, w *world) error {
			return w.load.burst(ctx, n, ahead)
		}}
	}, harmless: true},
	{name: "instant", weight: 6, draw: drawInstant},
}

// link is one instance's connections to one server.
type link struct {
	instance int
	broker   bool
}

func (d draw) link() link { return link{d.instance(), d.IntN(2) == 0} }

func (l link) String() string {
	if l.broker {
		return fmt.Sprintf("instance %d and the broker", l.instance)
	}
	return fmt.Sprintf("instance %d and the database", l.instance)
}

func (l link) of(w *world) *netfault.Proxy {
	if l.broker {
		return w.instances[l.instance].broker
	}
	return w.instances[l.instance].database
}

func (d draw) directions() []netfault.Direction {
	return [][]netfault.Direction{{netfault.ToServer}, {netfault.ToClient}, {netfault.ToServer, netfault.ToClient}}[d.IntN(3)]
}

func (d draw) trap() trap {
	return trap{
		nth:    1 + d.IntN(300),
		before: d.IntN(2) == 0,
		fault:  []netfault.Fault{netfault.FaultCut, netfault.FaultReset}[d.IntN(2)],
	}
}

func (t trap) String() string {
	when, how := "after", "cut"
	if t.before {
		when = "before"
	}
	if t.fault == netfault.FaultReset {
		how = "reset"
	}
	return fmt.Sprintf("%s %s the next %d.", how, when, t.nth)
}
