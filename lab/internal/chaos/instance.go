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
	deployment       *deployment
	log              *os.File
	database, broker *netfault.Proxy
	direct           *netfault.Proxy // to the database without the pooler; nil if there is no pooler

	fromDatabase, fromBroker, toBroker *packetBreaker

	mu           sync.Mutex
	proc         *stack.Process // guarded by mu; nil while none runs
	faulted      bool           // guarded by mu: a fault ends this process
	started      time.Time      // guarded by mu
	restartAfter time.Duration  // guarded by mu: pause between its end and the next start
}

const restartPause = 200 * time.Millisecond

// lanes is how many lanes each instance has.
const lanes = 3

func newInstance(d *deployment, number int) (*instance, error) {
	in := &instance{
		number: number, deployment: d, fromDatabase: postgresAnswers(),
		fromBroker: mqttPackets(netfault.ToClient), toBroker: mqttPackets(netfault.ToServer),
	}
	var err error
	if in.log, err = os.Create(in.logPath()); err != nil {
		return nil, err
	}
	server := d.databaseURL
	if d.pooler != nil {
		server = d.pooler.URL()
		if in.direct, err = netfault.New(d.databaseURL); err != nil {
			return nil, err
		}
	}
	if in.database, err = netfault.New(server); err == nil {
		in.broker, err = netfault.New(d.broker.URL())
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
		if d.trace != nil {
			d.trace.observe(number, c, forwarded)
		}
		return v
	})
	if d.trace != nil {
		in.broker.ObserveLost(func(c netfault.Chunk) { d.trace.observeLost(number, c) })
	}
	return in, nil
}

func (in *instance) logPath() string {
	return filepath.Join(in.deployment.cfg.Dir, fmt.Sprintf("instance-%d.log", in.number))
}

func (in *instance) close() {
	for _, p := range []*netfault.Proxy{in.database, in.broker, in.direct} {
		if p != nil {
			p.Close()
		}
	}
	_ = in.log.Close()
}

// toDatabase returns its proxies to the database: through the pooler, and direct.
func (in *instance) toDatabase() []*netfault.Proxy {
	if in.direct == nil {
		return []*netfault.Proxy{in.database}
	}
	return []*netfault.Proxy{in.database, in.direct}
}

// run restarts the process whenever it ends, like the restart policy of a container, until ctx
// ends. Then it stops the process.
func (in *instance) run(ctx context.Context) {
	for {
		proc, err := in.start()
		if err != nil {
			in.deployment.addFinding("instance %d cannot be started: %v", in.number, err)
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
		"run", "--delivery", in.deployment.cfg.Delivery.String(), "--lanes", fmt.Sprint(lanes), "--name", fmt.Sprint("chaos-", in.number),
		"--database-url", in.database.Through(in.deployment.databaseURL),
		"--mqtt-url", in.broker.Through(in.deployment.broker.URL()), "--log-format", "json", "--no-migrate",
	}
	if in.direct != nil {
		args = append(args, "--listen-url", in.direct.Through(in.deployment.databaseURL))
	}
	proc, err := stack.StartProcess(stack.ProcessSpec{
		Path: in.deployment.cfg.Program,
		Args: args,
		Env:  cli.WithoutFlags(os.Environ()), Stdout: in.log, Stderr: in.log,
	})
	if err != nil {
		return nil, err
	}
	in.proc, in.started, in.faulted, in.restartAfter = proc, time.Now(), false, restartPause
	if in.deployment.trace != nil {
		in.deployment.trace.started(in.number)
	}
	return proc, nil
}

// ended returns the pause before the next start. An instance may end by itself if a server is down
// when it starts, but not later.
func (in *instance) ended(proc *stack.Process) time.Duration {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.proc = nil
	const starting = 20 * time.Second
	if age := time.Since(in.started); !in.faulted && age > starting {
		in.deployment.addFinding("instance %d ended by itself after %v (%s); see %s", in.number, age.Round(time.Millisecond), proc.Outcome(), in.logPath())
	}
	return in.restartAfter
}

// stop stops the process cleanly.
func (in *instance) stop(proc *stack.Process) {
	_ = proc.Signal(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := proc.Wait(ctx); err != nil {
		in.deployment.addFinding("instance %d does not stop on SIGTERM; see %s", in.number, in.logPath())
		_ = proc.Signal(syscall.SIGQUIT) // it writes the stacks of its goroutines to the log
		<-proc.Done()
		return
	}
	if proc.ExitCode() != 0 {
		in.deployment.addFinding("instance %d stopped with %s; see %s", in.number, proc.Outcome(), in.logPath())
	}
}

func (in *instance) kill(back time.Duration) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.proc == nil {
		return errBusy
	}
	in.faulted, in.restartAfter = true, back
	return in.proc.Signal(syscall.SIGKILL)
}

func (in *instance) signal(sig syscall.Signal) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.proc == nil {
		return errBusy
	}
	in.faulted = true
	return in.proc.Signal(sig)
}

// freeze suspends the process for a while.
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
