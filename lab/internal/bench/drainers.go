package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/reactor"
)

// program is a process that drains the load.
type program struct {
	name    string
	process *stack.Process
	log     *os.File
}

// startProgram starts a program. The URLs go by the environment: arguments can be seen by
// every user of the machine.
func (d *deployment) startProgram(path, name string, args ...string) (*program, error) {
	log, err := os.Create(filepath.Join(d.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	process, err := stack.StartProcess(stack.ProcessSpec{
		Path: path, Args: args,
		Env:    append(os.Environ(), "REACTOR_DATABASE_URL="+d.database, "REACTOR_MQTT_URL="+d.broker),
		Stdout: log, Stderr: log,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	return &program{name, process, log}, nil
}

// failed is why the program has ended, nil if it has not, or ended well.
func (p *program) failed() error {
	select {
	case <-p.process.Done():
		if p.process.ExitCode() == 0 {
			return nil
		}
		text, _ := os.ReadFile(p.log.Name()) // without it, the outcome must do
		return fmt.Errorf("%s ended (%s): %s", p.name, p.process.Outcome(), text)
	default:
		return nil
	}
}

// programs are a drainer.
type programs []*program

func (all programs) processes() []subject {
	var list []subject
	for _, p := range all {
		list = append(list, subject{name: p.name, pid: p.process.Pid(), child: p.process})
	}
	return list
}

func (all programs) failed() error {
	for _, p := range all {
		if err := p.failed(); err != nil {
			return err
		}
	}
	return nil
}

// stop stops them cleanly, and insists after a while.
func (all programs) stop() {
	for _, p := range all {
		_ = p.process.Signal(os.Interrupt)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	for _, p := range all {
		if p.process.Wait(ctx) != nil {
			_ = p.process.Signal(os.Kill)
			<-p.process.Done()
		}
		_ = p.log.Close()
	}
}

func (all programs) finish(context.Context) (*Internals, error) {
	all.stop()
	return nil, nil
}

// beginBare starts what reactor is compared with.
func (d *deployment) beginBare(kind Kind) func(context.Context) (drainer, error) {
	return func(context.Context) (drainer, error) {
		p, err := d.startProgram(d.cfg.Drainer, string(kind), "bench-drain", string(kind),
			"--delivery", d.cfg.Delivery.String(), "--lanes", fmt.Sprint(d.cfg.Lanes),
			"--poll-rows", fmt.Sprint(d.cfg.Poll.Rows), "--poll-every", d.cfg.Poll.Every.String())
		return programs{p}, err
	}
}

// instances of reactor are a drainer; none, if those that run already are to drain.
type instances struct {
	programs
	health []string // their URLs
}

// beginInstances starts the instances and waits until they share the table.
func (d *deployment) beginInstances(ctx context.Context) (drainer, error) {
	in := &instances{}
	err := d.startInstances(ctx, in)
	if err != nil {
		in.stop()
	}
	return in, err
}

func (d *deployment) startInstances(ctx context.Context, in *instances) error {
	for i := range d.cfg.Instances {
		port, err := stack.FreePort()
		if err != nil {
			return err
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		p, err := d.startProgram(d.cfg.Program, fmt.Sprint("instance ", i+1), "run", "--no-migrate", "--name", fmt.Sprint("bench-", i+1),
			"--delivery", d.cfg.Delivery.String(), "--lanes", fmt.Sprint(d.cfg.Lanes), "--http-addr", address)
		if err != nil {
			return err
		}
		in.programs, in.health = append(in.programs, p), append(in.health, "http://"+address+"/healthz")
	}
	for len(in.programs) > 0 {
		var ready bool
		if err := d.conn.QueryRow(ctx, "SELECT count(owner) = 64 AND count(DISTINCT owner) = $1 FROM reactor.shards", len(in.programs)).Scan(&ready); err != nil {
			return fmt.Errorf("wait for the instances: %w", err)
		}
		if ready {
			return nil
		}
		if err := in.failed(); err != nil {
			return err
		}
		if !sleep(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

func (in *instances) finish(ctx context.Context) (*Internals, error) {
	defer in.stop()
	if len(in.health) == 0 {
		return nil, nil
	}
	var all []reactor.Stats
	for _, url := range in.health {
		s, err := statsOf(ctx, url)
		if err != nil {
			return nil, fmt.Errorf("ask an instance: %w", err)
		}
		all = append(all, s)
	}
	return newInternals(all), nil
}

// statsOf asks an instance for its counters.
func statsOf(ctx context.Context, url string) (reactor.Stats, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return reactor.Stats{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return reactor.Stats{}, err
	}
	defer response.Body.Close()
	var health struct{ Stats reactor.Stats }
	err = json.NewDecoder(response.Body).Decode(&health)
	return health.Stats, err
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
