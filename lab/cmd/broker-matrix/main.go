// Command broker-matrix asks brokers with `reactor check-broker`, and prints the answers as a table in
// Markdown, for docs/delivery.md. It starts what it has a program of, and asks any other broker by its URL:
//
//	broker-matrix --reactor bin/reactor aedes=mqtt://localhost:1884
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime/debug"
	"strings"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/lab/internal/embedded"
)

const description = `Prints what brokers answer to reactor check-broker, as a table in Markdown.`

type command struct {
	Reactor string   `env:"-" required:"" type:"path" placeholder:"FILE" help:"The program reactor."`
	Others  []string `arg:"" optional:"" placeholder:"NAME=URL" help:"Brokers that run already."`
}

func main() {
	cli.Program{Name: "broker-matrix", Description: description, Commands: &command{}}.Main()
}

// Run implements the command.
func (c *command) Run(ctx context.Context, out cli.Output) error {
	brokers, stop, err := start(ctx)
	defer stop()
	if err != nil {
		return err
	}
	for _, other := range c.Others {
		name, url, ok := strings.Cut(other, "=")
		if !ok {
			return cli.Usage(fmt.Errorf("%q is not NAME=URL", other))
		}
		brokers = append(brokers, broker{name, url})
	}
	fmt.Fprintf(out.Stdout, "Asked on %s.\n\n", time.Now().Format(time.DateOnly))
	return c.table(ctx, out.Stdout, brokers)
}

type broker struct{ name, url string }

// start starts the brokers that are at hand, each with its own defaults.
func start(ctx context.Context) (list []broker, stop func(), err error) {
	var running []io.Closer
	stop = func() {
		for _, r := range running {
			_ = r.Close()
		}
	}
	path, err := stack.FindMosquitto()
	if err != nil {
		return nil, stop, err
	}
	mosquitto, err := stack.StartMosquitto(ctx, stack.MosquittoConfig{Binary: path, Persistence: true})
	if err != nil {
		return nil, stop, err
	}
	running = append(running, mosquitto)
	version, _ := exec.CommandContext(ctx, path, "-h").Output() // it exits with 1
	words := strings.Fields(string(version))
	list = append(list, broker{"Mosquitto " + words[min(2, len(words)-1)], mosquitto.URL()})
	mochi, err := embedded.StartBroker(0, nil)
	if err != nil {
		return nil, stop, err
	}
	running = append(running, mochi)
	return append(list, broker{"mochi " + moduleVersion("github.com/mochi-mqtt/server/v2"), mochi.URL()}), stop, nil
}

// moduleVersion is the version of a module that this program was built with.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return ""
}

// checks are the columns.
var checks = []string{"MQTT 5", "QoS", "Receive Maximum", "client id", "session", "repetitions", "first with DUP", "marks", "passing on", "exactly-once", "at-least-once"}

func (c *command) table(ctx context.Context, w io.Writer, brokers []broker) error {
	fmt.Fprintf(w, "| broker | %s |\n|%s\n", strings.Join(checks, " | "), strings.Repeat("---|", len(checks)+1))
	for _, b := range brokers {
		found, err := c.ask(ctx, b.url)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		cells := []string{b.name}
		for _, check := range checks {
			cells = append(cells, cell(found[check]))
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
	return nil
}

// finding is what is read of a finding in JSON.
type finding struct{ Check, Verdict, What string }

func (c *command) ask(ctx context.Context, url string) (map[string]finding, error) {
	program := exec.CommandContext(ctx, c.Reactor, "check-broker", "--json")
	program.Env = append(program.Environ(), "REACTOR_MQTT_URL="+url) // not in the list of processes
	text, err := program.Output()
	var failed *exec.ExitError // a problem was found
	if err != nil && !errors.As(err, &failed) {
		return nil, err
	}
	var answer struct{ Findings []finding }
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("reading the answer of reactor check-broker: %w", err)
	}
	found := map[string]finding{}
	for _, f := range answer.Findings {
		found[f.Check] = f
	}
	return found, nil
}

// cell is a finding in short.
func cell(f finding) string {
	first := func() string { return strings.TrimRight(strings.Fields(f.What)[0], ":,") }
	switch {
	case f.Check == "": // not asked, because of another answer
		return ""
	case f.Verdict == "unknown", f.Check == "repetitions" && f.Verdict == "warning":
		return "?"
	case f.Check == "Receive Maximum":
		return first()
	case f.Check == "QoS" && f.Verdict != "ok":
		return "≤ " + strings.Fields(f.What)[2]
	case f.Check == "passing on":
		return strings.TrimRight(strings.Join(strings.Fields(f.What)[:2], " "), ":")
	case f.Verdict == "ok":
		return "✓"
	case f.Check == "marks":
		return "no"
	}
	return "✗"
}
