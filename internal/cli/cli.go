// Package cli is what the commands of this project have in common: flags that are
// environment variables, too, failures of one line, exit codes, signals and the log.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	ExitOK          = 0
	ExitFailure     = 1
	ExitUsage       = 2
	ExitInterrupted = 130 // stopped by a second signal, as a shell reports SIGINT
)

// Program is a command line.
type Program struct {
	Name, Description string
	// Commands is a pointer to the struct that kong fills in. A command's Run may ask for
	// a context.Context, which ends with the first signal, and for the Output.
	Commands any
	// Strict refuses variables that are almost the name of a flag, and tells of others that
	// begin like ours. A program that starts instances with variables meant for them is not.
	Strict bool
	// Options add to kong's.
	Options []kong.Option
}

// Output is where a command writes.
type Output struct {
	Stdout, Stderr io.Writer
	Strangers      []string // environment variables to warn of
}

// Main is Run for os.Args, and the exit.
func (p Program) Main() { os.Exit(p.Run(os.Args[1:], os.Stdout, os.Stderr)) }

// Run parses the arguments and runs the command that they name. Every failure is one line
// on stderr.
func (p Program) Run(args []string, stdout, stderr io.Writer) (code int) {
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
	env := NewEnvironment(os.Environ())
	parser, err := p.Parser(env, kong.Writers(stdout, stderr), kong.Exit(func(code int) { panic(helped(code)) }))
	if err != nil {
		panic(err) // the command line's own definition is broken
	}
	parsed, err := parser.Parse(args)
	var strangers []string
	if p.Strict {
		var typo error
		if strangers, typo = env.Strangers(parser.Model.Node); err != nil || hasSettings(parsed) {
			err = errors.Join(err, typo) // the one may explain the other
		}
	}
	if err != nil {
		if bad := (*kong.ParseError)(nil); errors.As(err, &bad) {
			parsed = bad.Context
		}
		fmt.Fprintf(stderr, "%s: %s (see %s %s--help)\n", p.Name, oneLine(err), p.Name, commandOf(parsed))
		return ExitUsage
	}
	ctx, stop := signals()
	defer stop()
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(Output{stdout, stderr, strangers})
	if err := inFlags(parsed.Run(), parsed.Flags(), env); err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", p.Name, oneLine(err))
		var usage *usageError
		if errors.As(err, &usage) {
			return ExitUsage
		}
		return ExitFailure
	}
	return ExitOK
}

// Parser makes the parser of the command line.
func (p Program) Parser(env *Environment, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(p.Commands, slices.Concat(p.Options, options, []kong.Option{
		kong.Name(p.Name),
		kong.Description(p.Description),
		kong.Resolvers(env),
		kong.NamedMapper("url", kong.MapperFunc(trimmed)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.ValueFormatter(helpWithEnv),
	})...)
}

// Usage marks an error as a mistake in flags that only the command can see.
func Usage(err error) error { return &usageError{err} }

type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// hasSettings reports whether the command has any, as the one for the version does not.
func hasSettings(parsed *kong.Context) bool {
	return slices.ContainsFunc(parsed.Flags(), func(flag *kong.Flag) bool { return flag.Name != "help" })
}

// oneLine is an error on a single line.
func oneLine(err error) string {
	return InFlagTerms(strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " "))
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
	return strings.TrimSuffix(value.Help, ".") + " ($" + VariableOf(value.Name) + ")."
}
