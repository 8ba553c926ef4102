package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/lab/internal/deploy"
	"github.com/job-publisher/reactor/reactor"
)

// programs are a drainer.
type programs struct{ deploy.Programs }

func (all programs) processes() []subject {
	var list []subject
	for _, p := range all.Programs {
		list = append(list, subject{name: p.Name, pid: p.Pid(), child: p.Process})
	}
	return list
}

func (all programs) failed() error { return all.Failed() }

func (all programs) finish(context.Context) (*Internals, error) { return nil, all.Stop() }

// startProgram starts a program that has our environment: by that a measurement can give
// the instances settings which the bench has no flag for.
func (d *deployment) startProgram(path, name string, args ...string) (*deploy.Program, error) {
	return deploy.StartProgram(deploy.ProgramConfig{
		Name: name, Path: path, Args: args, Env: os.Environ(), DatabaseURL: d.database, BrokerURL: d.broker, Dir: d.dir,
	})
}

// beginBare starts what reactor is compared with.
func (d *deployment) beginBare(kind Kind) func(context.Context) (drainer, error) {
	return func(context.Context) (drainer, error) {
		p, err := d.startProgram(d.cfg.Drainer, string(kind), "bench-drain", string(kind),
			"--delivery", d.cfg.Delivery.String(), "--lanes", fmt.Sprint(d.cfg.Lanes),
			"--poll-rows", fmt.Sprint(d.cfg.Poll.Rows), "--poll-every", d.cfg.Poll.Every.String())
		if err != nil {
			return nil, err
		}
		return programs{deploy.Programs{p}}, nil
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
	if err := d.startInstances(ctx, in); err != nil {
		return nil, errors.Join(err, in.Stop())
	}
	return in, nil
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
		in.Programs, in.health = append(in.Programs, p), append(in.health, "http://"+address+"/healthz")
	}
	if d.cfg.Instances == 0 {
		return nil
	}
	return deploy.AwaitShares(ctx, d.conn, in.Programs)
}

func (in *instances) finish(ctx context.Context) (_ *Internals, err error) {
	defer func() { err = errors.Join(err, in.Stop()) }()
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
