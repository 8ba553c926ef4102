// Package cli is what the commands of this project have in common: flags that can also be
// set by environment variables, errors of one line, exit codes, signals and the log.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	ExitOK          = 0
	ExitFailure     = 1
	ExitUsage       = 2
	ExitInterrupted = 130 // ended by a second signal; a shell reports SIGINT with this code
)

// Program is a command line.
type Program struct {
	Name, Description string
	// Commands is a pointer to the struct that kong fills in. A command's Run can have the
	// parameters context.Context, which ends with the first signal, and Output.
	Commands any
	// Strict refuses variables whose name is almost that of a flag's variable. Other unknown
	// variables with our prefix are in Output.UnknownVariables. A program that passes its
	// variables on to instances is not strict.
	Strict bool
	// Options are further options of kong.
	Options []kong.Option
}

// Output is where a command writes.
type Output struct {
	Stdout, Stderr io.Writer
	// UnknownVariables are environment variables to warn about.
	UnknownVariables []string
}

// Main calls Run with os.Args and exits.
func (p Program) Main() { os.Exit(p.Run(os.Args[1:], os.Stdout, os.Stderr)) }

// Run parses the arguments and runs the command that they name. Every error is one line on
// stderr.
func (p Program) Run(args []string, stdout, stderr io.Writer) (code int) {
	// After --help the parser calls its exit function. The panic leaves the parser.
	type helpExit int
	defer func() {
		if r := recover(); r != nil {
			h, ok := r.(helpExit)
			if !ok {
				panic(r)
			}
			code = int(h)
		}
	}()
	env := NewEnvironment(os.Environ())
	parser, err := p.Parser(env, kong.Writers(stdout, stderr), kong.Exit(func(code int) { panic(helpExit(code)) }))
	if err != nil {
		panic(err) // the definition of the command line is invalid
	}
	parsed, err := parser.Parse(joinNegative(args, parser.Model.Node))
	var unknown []string
	if p.Strict {
		var typo error
		if unknown, typo = env.UnknownVariables(parser.Model.Node); err != nil || hasSettings(parsed) {
			err = errors.Join(err, typo) // the typo may be the cause of err
		}
	}
	if err != nil {
		if bad := (*kong.ParseError)(nil); errors.As(err, &bad) {
			parsed = bad.Context
		}
		fmt.Fprintf(stderr, "%s: %s (see %s %s--help)\n", p.Name, withoutSecrets(oneLine(err), args, env), p.Name, commandOf(parsed))
		return ExitUsage
	}
	ctx, stop := signals()
	defer stop()
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(Output{stdout, stderr, unknown})
	if err := inFlags(parsed.Run(), parsed.Flags(), env); err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", p.Name, withoutSecrets(oneLine(err), args, env))
		var usage *usageError
		if errors.As(err, &usage) {
			return ExitUsage
		}
		return ExitFailure
	}
	return ExitOK
}

// Parser returns the parser of the command line.
func (p Program) Parser(env *Environment, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(p.Commands, slices.Concat(p.Options, options, []kong.Option{
		kong.Name(p.Name),
		kong.Description(p.Description),
		kong.Resolvers(env),
		kong.NamedMapper("url", kong.MapperFunc(trimmed)),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(duration)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.ValueFormatter(helpWithEnv),
	})...)
}

// Usage marks an error of a command as an error in its flags. Run then returns ExitUsage.
func Usage(err error) error { return &usageError{err} }

type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// hasSettings reports whether the command has flags besides --help. The command that prints the
// version has none.
func hasSettings(parsed *kong.Context) bool {
	return slices.ContainsFunc(parsed.Flags(), func(flag *kong.Flag) bool { return flag.Name != "help" })
}

// oneLine returns the text of an error on a single line, in terms of the flags, as a terminal may show it.
func oneLine(err error) string {
	return Visible(InFlagTerms(strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")))
}

// commandOf returns the name of the parsed command and a space, for the hint at --help.
func commandOf(parsed *kong.Context) string {
	if parsed == nil || parsed.Command() == "" {
		return ""
	}
	return parsed.Command() + " "
}

// helpWithEnv adds the environment variable to the help of each flag.
func helpWithEnv(value *kong.Value) string {
	if value.Flag == nil || value.Name == "help" || fromLineOnly(value) {
		return value.Help
	}
	return strings.TrimSuffix(value.Help, ".") + " ($" + VariableOf(value.Name) + ")."
}
