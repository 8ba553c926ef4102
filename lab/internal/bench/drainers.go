package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/lab/internal/deploy"
	"github.com/job-publisher/reactor/reactor"
)

// programs is a drainer that consists of processes.
type programs struct{ deploy.Programs }

func (all programs) processes() []measuredProcess {
	var list []measuredProcess
	for _, p := range all.Programs {
		list = append(list, measuredProcess{name: p.Name, pid: p.Pid(), child: p.Process})
	}
	return list
}

func (all programs) failed() error { return all.Failed() }

func (all programs) finish(context.Context) (*Internals, error) { return nil, all.Stop() }

// startProgram starts a program with our environment. So the environment can give the
// instances settings for which the bench has no flag.
func (d *deployment) startProgram(path, name string, args ...string) (*deploy.Program, error) {
	return deploy.StartProgram(deploy.ProgramConfig{
		Name: name, Path: path, Args: args, Env: os.Environ(), DatabaseURL: d.database, BrokerURL: d.broker, Dir: d.dir,
	})
}

// beginBare starts a process that publishes without reactor.
func (d *deployment) beginBare(kind Kind, delivery reactor.Delivery) func(context.Context) (drainer, error) {
	return func(context.Context) (drainer, error) {
		p, err := d.startProgram(d.cfg.Drainer, string(kind), "bench-drain", string(kind),
			"--delivery", delivery.String(), "--lanes", fmt.Sprint(d.cfg.bareLanes()), fmt.Sprint("--after=", d.stored),
			"--poll-rows", fmt.Sprint(d.cfg.Poll.Rows), "--poll-every", d.cfg.Poll.Every.String())
		if err != nil {
			return nil, err
		}
		return programs{deploy.Programs{p}}, nil
	}
}

// instances is a drainer that consists of instances of reactor. It is empty if instances that
// already run are measured.
type instances struct {
	programs
	health []string // where they serve health and metrics
}

// beginInstances starts the instances and waits until they share the table.
func (d *deployment) beginInstances(v variant) func(context.Context) (drainer, error) {
	return func(ctx context.Context) (drainer, error) {
		in := &instances{}
		if err := d.startInstances(ctx, in, v); err != nil {
			return nil, errors.Join(err, in.Stop())
		}
		return in, nil
	}
}

func (d *deployment) startInstances(ctx context.Context, in *instances, v variant) error {
	for i := range v.instances {
		port, err := stack.FreePort()
		if err != nil {
			return err
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		args := []string{
			"run", "--no-migrate", "--name", fmt.Sprint("bench-", i+1),
			"--delivery", d.cfg.Delivery.String(), "--lanes", fmt.Sprint(d.cfg.Lanes), "--http-addr", address,
		}
		p, err := d.startProgram(d.cfg.Program, fmt.Sprint("instance ", i+1), slices.Concat(args, d.cfg.InstanceFlags, v.flags)...)
		if err != nil {
			return err
		}
		in.Programs, in.health = append(in.Programs, p), append(in.health, "http://"+address)
	}
	if v.instances == 0 {
		return nil
	}
	return deploy.AwaitShares(ctx, d.conn, in.Programs)
}

func (in *instances) finish(ctx context.Context) (_ *Internals, err error) {
	defer func() { err = errors.Join(err, in.Stop()) }()
	if len(in.health) == 0 {
		return nil, nil
	}
	var (
		all   []reactor.Stats
		sizes []ClaimSize
	)
	for _, url := range in.health {
		s, err := statsOf(ctx, url+"/readyz")
		if err != nil {
			return nil, fmt.Errorf("read the counters of an instance: %w", err)
		}
		claims, err := claimSizesOf(ctx, url+"/metrics")
		if err != nil {
			return nil, fmt.Errorf("read the metrics of an instance: %w", err)
		}
		all, sizes = append(all, s), addClaimSizes(sizes, claims)
	}
	i := newInternals(all)
	i.ClaimSizes = sizes
	return i, nil
}

// statsOf reads the counters of an instance.
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
