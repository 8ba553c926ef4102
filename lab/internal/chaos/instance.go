package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// instance is a supervised `reactor run`, with a proxy to each server.
type instance struct {
	number           int
	world            *world
	log              *os.File
	database, broker *netfault.Proxy
	direct           *netfault.Proxy // to the database past a pooler; nil without one

	fromDatabase, fromBroker, toBroker *tripwire

	mu      sync.Mutex
	proc    *stack.Process // guarded by mu; nil while there is none
	asked   bool           // guarded by mu: its end is our doing
	started time.Time      // guarded by mu
	back    time.Duration  // guarded by mu: until the next start
}

const restartPause = 200 * time.Millisecond

func newInstance(w *world, number int) (*instance, error) {
	in := &instance{
		number: number, world: w, fromDatabase: postgresAnswers(),
		fromBroker: mqttPackets(netfault.ToClient), toBroker: mqttPackets(netfault.ToServer),
	}
	var err error
	if in.log, err = os.Create(in.logPath()); err != nil {
		return nil, err
	}
	server := w.databaseURL
	if w.pooler != nil {
		server = w.pooler.URL()
		if in.direct, err = netfault.New(w.databaseURL); err != nil {
			return nil, err
		}
	}
	if in.database, err = netfault.New(server); err == nil {
		in.broker, err = netfault.New(w.broker.URL())
	}
	if err != nil {
		in.close()
		return nil, err
	}
	in.database.SetHook(in.fromDatabase.hook)
	in.broker.SetHook(func(c netfault.Chunk) netfault.Verdict {
		v := in.fromBroker.hook(c)
		if v.Then == netfault.FaultNone {
			v = in.toBroker.hook(c)
		}
		forwarded := len(c.Data)
		if v.Then != netfault.FaultNone {
			forwarded = v.Forward
		}
		if w.ledger != nil {
			w.ledger.observe(number, c, forwarded)
		}
		return v
	})
	if w.ledger != nil {
		in.broker.ObserveLost(func(c netfault.Chunk) { w.ledger.missed(number, c) })
	}
	return in, nil
}

func (in *instance) logPath() string {
	return filepath.Join(in.world.cfg.Dir, fmt.Sprintf("instance-%d.log", in.number))
}

func (in *instance) close() {
	for _, p := range []*netfault.Proxy{in.database, in.broker, in.direct} {
		if p != nil {
			p.Close()
		}
	}
	_ = in.log.Close()
}

// toDatabase are its ways to the database: through a pooler and past it.
func (in *instance) toDatabase() []*netfault.Proxy {
	if in.direct == nil {
		return []*netfault.Proxy{in.database}
	}
	return []*netfault.Proxy{in.database, in.direct}
}

// run keeps the process running, as a container's restart policy does, until ctx ends;
// then it stops it.
func (in *instance) run(ctx context.Context) {
	for {
		proc, err := in.start()
		if err != nil {
			in.world.found("instance %d cannot be started: %v", in.number, err)
			return
		}
		select {
		case <-proc.Done():
		case <-ctx.Done():
			in.stop(proc)
			return
		}
		if !deploy.Sleep(ctx, in.ended(proc)) {
			return
		}
	}
}

func (in *instance) start() (*stack.Process, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	args := []string{
		"run", "--delivery", in.world.cfg.Delivery.String(), "--name", fmt.Sprint("chaos-", in.number),
		"--database-url", in.database.Through(in.world.databaseURL),
		"--mqtt-url", in.broker.Through(in.world.broker.URL()), "--log-format", "json", "--no-migrate",
	}
	if in.direct != nil {
		args = append(args, "--listen-url", in.direct.Through(in.world.databaseURL))
	}
	proc, err := stack.StartProcess(stack.ProcessSpec{
		Path: in.world.cfg.Program,
		Args: args,
		Env:  cli.WithoutFlags(os.Environ()), Stdout: in.log, Stderr: in.log,
	})
	if err != nil {
		return nil, err
	}
	in.proc, in.started, in.asked, in.back = proc, time.Now(), false, restartPause
	if in.world.ledger != nil {
		in.world.ledger.started(in.number)
	}
	return proc, nil
}

// ended returns the pause before the next start. An instance may give up at once where a
// server is away when it starts; one that was under way must not.
func (in *instance) ended(proc *stack.Process) time.Duration {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.proc = nil
	const starting = 20 * time.Second
	if age := time.Since(in.started); !in.asked && age > starting {
		in.world.found("instance %d ended by itself after %v (%s); see %s", in.number, age.Round(time.Millisecond), proc.Outcome(), in.logPath())
	}
	return in.back
}

// stop has the process stop cleanly.
func (in *instance) stop(proc *stack.Process) {
	_ = proc.Signal(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := proc.Wait(ctx); err != nil {
		in.world.found("instance %d does not stop on SIGTERM; see %s", in.number, in.logPath())
		_ = proc.Signal(syscall.SIGQUIT) // the stacks of its goroutines go to the log
		<-proc.Done()
		return
	}
	if proc.ExitCode() != 0 {
		in.world.found("instance %d stopped with %s; see %s", in.number, proc.Outcome(), in.logPath())
	}
}

func (in *instance) kill(back time.Duration) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.proc == nil {
		return errBusy
	}
	in.asked, in.back = true, back
	return in.proc.Signal(syscall.SIGKILL)
}

func (in *instance) signal(sig syscall.Signal) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.proc == nil {
		return errBusy
	}
	in.asked = true
	return in.proc.Signal(sig)
}

// freeze holds the process still for a while.
func (in *instance) freeze(ctx context.Context, hold time.Duration) error {
	in.mu.Lock()
	proc := in.proc
	in.mu.Unlock()
	if proc == nil {
		return errBusy
	}
	if err := proc.Freeze(); err != nil {
		return err
	}
	deploy.Sleep(ctx, hold)
	return proc.Thaw()
}
