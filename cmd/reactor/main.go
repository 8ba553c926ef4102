// Command reactor publishes the rows of a PostgreSQL table to an MQTT broker, each
// at its time.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130 // stopped by a second signal, as a shell reports SIGINT
)

const description = `Publishes the jobs of a PostgreSQL table to an MQTT broker, each at its fire_at.

Insert rows into the table jobs from any program; any number of instances of
"reactor run" share the work. See it all at once, on servers of its own:

  reactor demo`

// program is the command line.
type program struct {
	Run     runCommand     `cmd:"" help:"Publish jobs as they fall due."`
	Migrate migrateCommand `cmd:"" help:"Bring the database's schema up to date, look at it, or undo it."`
	Demo    demoCommand    `cmd:"" help:"Show the main job on a PostgreSQL and a broker of its own."`
	Bench   benchCommand   `cmd:"" help:"Measure lateness and throughput."`
	Drain   drainCommand   `cmd:"" name:"bench-drain" hidden:"" help:"Be what reactor bench compares with."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

func main() { os.Exit(runProgram(os.Args[1:], os.Stdout, os.Stderr)) }

// runProgram is main without the exit. Every failure is one line on stderr.
func runProgram(args []string, stdout, stderr io.Writer) (code int) {
	// --help ends the parser by way of its exit function.
	type helped int
	defer func() {
		if r := recover(); r != nil {
			h, ok := r.(helped)
			if !ok {
				panic(r)
			}
			code = int(h)
		}
	}()
	var p program
	env := newEnvironment(os.Environ())
	parser, err := newParser(&p, env, kong.Writers(stdout, stderr), kong.Exit(func(code int) { panic(helped(code)) }))
	if err != nil {
		panic(err) // the command line's own definition is broken
	}
	parsed, err := parser.Parse(args)
	strangers, typo := env.strangers(parser.Model.Node)
	if err == nil && parsed.Command() == "version" {
		typo = nil // it has no settings
	}
	var bad *kong.ParseError
	if errors.As(err, &bad) {
		parsed = bad.Context
	}
	if err = errors.Join(err, typo); err != nil { // the one may explain the other
		fmt.Fprintf(stderr, "reactor: %s (see reactor %s--help)\n", oneLine(err), commandOf(parsed))
		return exitUsage
	}
	ctx, stop := signals()
	defer stop()
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(output{stdout, stderr, strangers})
	if err := inFlags(parsed.Run(), parsed.Flags(), env); err != nil {
		fmt.Fprintf(stderr, "reactor: %s\n", oneLine(err))
		var usage *usageError
		if errors.As(err, &usage) {
			return exitUsage
		}
		return exitFailure
	}
	return exitOK
}

// newParser makes the command line of a program.
func newParser(p *program, env *environment, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(p, append(options,
		kong.Name("reactor"),
		kong.Description(description),
		kong.Resolvers(env),
		kong.NamedMapper("url", kong.MapperFunc(trimmed)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.ValueFormatter(helpWithEnv),
	)...)
}

// output is where a command writes.
type output struct {
	stdout, stderr io.Writer
	strangers      []string // environment variables to warn of
}

// usageError is a mistake in flags that only the command can see.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// sameSignal is within what time a second signal is the first one once more. timeout(1) sends
// one to the process and one to its group; a terminal's Ctrl-C reaches a process directly
// and through whatever it was started by, sudo or make.
const sameSignal = time.Second / 2

// signals ends the context with the first SIGINT or SIGTERM: a clean stop. The
// second ends the process, if it comes later.
func signals() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-ch:
			cancel()
		case <-done:
			return
		}
		first := time.Now()
		for {
			select {
			case <-ch:
				if time.Since(first) >= sameSignal {
					os.Exit(exitInterrupted)
				}
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(done)
		cancel()
	}
}

// oneLine is an error on a single line, in terms of the flags.
func oneLine(err error) string {
	return inFlagTerms(strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " "))
}

// commandOf names the command that was being parsed, for the hint.
func commandOf(parsed *kong.Context) string {
	if parsed == nil || parsed.Command() == "" {
		return ""
	}
	return parsed.Command() + " "
}

// helpWithEnv shows the environment variable of each flag.
func helpWithEnv(value *kong.Value) string {
	if value.Flag == nil || value.Name == "help" {
		return value.Help
	}
	return strings.TrimSuffix(value.Help, ".") + " ($" + variableOf(value.Name) + ")."
}
