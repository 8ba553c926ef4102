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

// fault is a kind of fault in the deployment.
type fault struct {
	name   string
	weight int // how often it is drawn, relative to the others
	draw   func(r draw) action
	// optional: the fault breaks an assumption of the strictest promise, so the checks accept
	// more. It is used only if it is asked for.
	optional bool
	// harmless: the fault must not delay other jobs than those that it affects directly. See
	// latenessLimit.
	harmless bool
}

// FaultNames lists all faults.
func FaultNames() []string {
	names := make([]string, len(faults))
	for i, f := range faults {
		names[i] = f.name
	}
	return names
}

// DefaultFaults lists the faults that must break no promise: all except "failover", which loses
// commits, and "brokerkill", which loses what the broker has not saved.
func DefaultFaults() []string {
	var names []string
	for _, f := range faults {
		if !f.optional {
			names = append(names, f.name)
		}
	}
	return names
}

// errBusy is the error of a fault whose target is down already.
var errBusy = errors.New("skipped: it is down already")

var faults = []fault{
	// Instances.
	{name: "kill", weight: 8, draw: func(r draw) action {
		i, back := r.instance(), r.duration(50*time.Millisecond, 500*time.Millisecond)
		if r.IntN(3) == 0 {
			back *= 10
		}
		return action{fmt.Sprintf("instance %d with SIGKILL, restarted after %v", i, back), func(ctx context.Context, d *deployment) error {
			return d.instances[i].kill(back)
		}}
	}},
	{name: "freeze", weight: 3, draw: func(r draw) action {
		// After 3 s without a heartbeat the others take over the shards of an instance.
		i, hold := r.instance(), r.duration(100*time.Millisecond, 7*time.Second)
		return action{fmt.Sprintf("instance %d with SIGSTOP, SIGCONT after %v", i, hold), func(ctx context.Context, d *deployment) error {
			return d.instances[i].freeze(ctx, hold)
		}}
	}},
	{name: "stop", weight: 2, draw: func(r draw) action {
		i := r.instance()
		return action{fmt.Sprintf("instance %d with SIGTERM, then restarted", i), func(ctx context.Context, d *deployment) error {
			return d.instances[i].signal(syscall.SIGTERM)
		}}
	}},

	// Servers.
	{name: "postgres", weight: 2, draw: func(r draw) action {
		how := r.IntN(3)
		down := r.duration(0, 3*time.Second)
		text := [...]string{"stopped fast", "stopped immediately", "killed"}[how]
		return action{fmt.Sprintf("%s, started after %v", text, down), func(ctx context.Context, d *deployment) error {
			return restart(ctx, &d.postgresDown, func() error {
				p := d.primary()
				return [...]func() error{p.Stop, p.StopImmediate, p.Kill}[how]()
			}, func(ctx context.Context) error { return d.primary().Start(ctx) }, down)
		}}
	}},
	{name: "broker", weight: 2, draw: func(r draw) action {
		down := r.duration(0, 3*time.Second)
		return action{fmt.Sprintf("stopped, started after %v", down), func(ctx context.Context, d *deployment) error {
			return restart(ctx, &d.brokerDown, d.broker.Stop, d.broker.Start, down)
		}}
	}},
	{name: "readonly", weight: 2, draw: drawReadOnly},
	{name: "failover", weight: 4, draw: drawFailover, optional: true},
	{name: "brokerkill", weight: 4, draw: drawBrokerKill, optional: true},
	{name: "backends", weight: 3, draw: func(r draw) action {
		share := r.Float64()
		return action{fmt.Sprintf("%.0f %% of all terminated", 100*share), func(ctx context.Context, d *deployment) error {
			return d.terminateBackends(ctx, share)
		}}
	}},

	// Connections.
	{name: "cut", weight: 4, draw: func(r draw) action {
		l, reset := r.link(), r.IntN(2) == 0
		return action{fmt.Sprintf("%s, reset %t", l, reset), func(ctx context.Context, d *deployment) error {
			if p := l.of(d); reset {
				p.Reset()
			} else {
				p.Cut()
			}
			return nil
		}}
	}},
	{name: "stall", weight: 3, draw: func(r draw) action {
		l, to, hold := r.link(), r.directions(), r.duration(50*time.Millisecond, 5*time.Second)
		return action{fmt.Sprintf("%s, %v, for %v", l, to, hold), func(ctx context.Context, d *deployment) error {
			l.of(d).Stall(to...)
			deploy.Sleep(ctx, hold)
			l.of(d).Resume(to...)
			return nil
		}}
	}},
	{name: "drop", weight: 3, draw: func(r draw) action {
		l, to, hold := r.link(), r.directions(), r.duration(50*time.Millisecond, 5*time.Second)
		return action{fmt.Sprintf("%s, %v, for %v, then reset", l, to, hold), func(ctx context.Context, d *deployment) error {
			l.of(d).Drop(to...)
			deploy.Sleep(ctx, hold)
			l.of(d).Reset()
			l.of(d).Resume(to...)
			return nil
		}}
	}},
	{name: "refuse", weight: 2, draw: func(r draw) action {
		l, hold := r.link(), r.duration(50*time.Millisecond, 3*time.Second)
		return action{fmt.Sprintf("%s, cut, and new connections refused for %v", l, hold), func(ctx context.Context, d *deployment) error {
			l.of(d).Refuse()
			l.of(d).Cut()
			deploy.Sleep(ctx, hold)
			return l.of(d).Accept()
		}}
	}},
	{name: "blackhole", weight: 3, draw: drawBlackHole},
	{name: "packet", weight: 8, draw: func(r draw) action {
		i, b := r.instance(), r.breakpoint()
		kinds := []byte{4, 5, 7, 3, 6}
		names := []string{"PUBACK", "PUBREC", "PUBCOMP", "PUBLISH", "PUBREL"}
		n := r.IntN(len(kinds))
		b.kind = kinds[n]
		return action{fmt.Sprintf("instance %d, %v %s", i, b, names[n]), func(ctx context.Context, d *deployment) error {
			in := d.instances[i]
			if n < 3 {
				in.fromBroker.set(b)
			} else {
				in.toBroker.set(b)
			}
			return nil
		}}
	}},
	{name: "commit", weight: 5, draw: func(r draw) action {
		i, b := r.instance(), r.breakpoint()
		b.kind = 'C' // CommandComplete: the commit of a single statement has been made
		return action{fmt.Sprintf("instance %d, %v commit's answer", i, b), func(ctx context.Context, d *deployment) error {
			d.instances[i].fromDatabase.set(b)
			return nil
		}}
	}},

	// Other clients, and load.
	{name: "locks", weight: 2, draw: func(r draw) action {
		rows, hold := 1+r.IntN(500), r.duration(100*time.Millisecond, 4*time.Second)
		return action{fmt.Sprintf("%d rows locked by an idle transaction for %v", rows, hold), func(ctx context.Context, d *deployment) error {
			return d.holdTransaction(ctx, hold, "SELECT FROM jobs WHERE NOT processed ORDER BY id DESC LIMIT $1 FOR UPDATE", rows)
		}}
	}},
	{name: "feed", weight: 2, draw: func(r draw) action {
		to := [...]string{"wal", "notify"}[r.IntN(2)]
		return action{"changed over to " + to, func(ctx context.Context, d *deployment) error { return d.changeFeed(ctx, to) }}
	}, harmless: true},
	{name: "rows", weight: 2, draw: drawRows, harmless: true},
	{name: "lockjob", weight: 2, draw: drawLockJob, harmless: true},
	{name: "table", weight: 1, draw: func(r draw) action {
		hold := r.duration(50*time.Millisecond, 2*time.Second)
		return action{fmt.Sprintf("locked for a change of its columns for %v", hold), func(ctx context.Context, d *deployment) error {
			return d.holdTransaction(ctx, hold, "LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
		}}
	}},
	{name: "connections", weight: 2, draw: func(r draw) action {
		hold := r.duration(500*time.Millisecond, 4*time.Second)
		return action{fmt.Sprintf("all taken for %v", hold), func(ctx context.Context, d *deployment) error {
			return d.exhaustConnections(ctx, hold)
		}}
	}},
	{name: "burst", weight: 3, draw: func(r draw) action {
		n, ahead := 500+r.IntN(5000), r.duration(0, 2*time.Second)
		return action{fmt.Sprintf("%d jobs at one instant, in %v", n, ahead), func(ctx context.Context, d *deployment) error {
			return d.load.burst(ctx, n, ahead)
		}}
	}, harmless: true},
	{name: "instant", weight: 6, draw: drawInstant},
}

// link is one instance's connections to one server.
type link struct {
	instance int
	broker   bool
}

func (r draw) link() link { return link{r.instance(), r.IntN(2) == 0} }

func (l link) String() string {
	if l.broker {
		return fmt.Sprintf("instance %d and the broker", l.instance)
	}
	return fmt.Sprintf("instance %d and the database", l.instance)
}

func (l link) of(d *deployment) *netfault.Proxy {
	if l.broker {
		return d.instances[l.instance].broker
	}
	return d.instances[l.instance].database
}

func (r draw) directions() []netfault.Direction {
	return [][]netfault.Direction{{netfault.ToServer}, {netfault.ToClient}, {netfault.ToServer, netfault.ToClient}}[r.IntN(3)]
}

func (r draw) breakpoint() breakpoint {
	return breakpoint{
		nth:    1 + r.IntN(300),
		before: r.IntN(2) == 0,
		fault:  []netfault.Fault{netfault.FaultCut, netfault.FaultReset}[r.IntN(2)],
	}
}

func (b breakpoint) String() string {
	when, how := "after", "cut"
	if b.before {
		when = "before"
	}
	if b.fault == netfault.FaultReset {
		how = "reset"
	}
	return fmt.Sprintf("%s %s the next %d.", how, when, b.nth)
}
