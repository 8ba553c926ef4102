package cli

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// variablePrefix begins the name of every environment variable that is a flag: REACTOR_LANES
// is --lanes.
const variablePrefix = "REACTOR_"

// VariableOf names the environment variable of a flag.
func VariableOf(flag string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Environment gives flags that are not on the command line the values of their variables.
//
// An empty variable, or one of white space, is as good as none: that is what an unset
// variable becomes on its way through docker-compose and CI systems. White space around a
// value is no part of it, for a value from a file ends with the end of its line; a
// password only loses that.
type Environment struct {
	values map[string]string // of our variables, by their names
	set    map[string]bool   // flags that have their value from here
}

// NewEnvironment reads it from entries like those of os.Environ.
func NewEnvironment(environ []string) *Environment {
	e := &Environment{values: map[string]string{}, set: map[string]bool{}}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if hasPrefix(name) && strings.TrimSpace(value) != "" {
			e.values[name] = value
		}
	}
	return e
}

// WithoutFlags leaves out what an instance would take for its settings.
func WithoutFlags(environ []string) []string {
	return slices.DeleteFunc(environ, func(entry string) bool { return strings.HasPrefix(entry, variablePrefix) })
}

// Gave reports whether a flag has its value from here.
func (e *Environment) Gave(flag string) bool { return e.set[flag] }

// hasPrefix reports whether a variable begins like ours, in whatever case: reactor_lanes is
// none of ours, and somebody's mistake.
func hasPrefix(name string) bool {
	n := len(variablePrefix)
	return len(name) > n && strings.EqualFold(name[:n], variablePrefix)
}

// Validate implements kong.Resolver.
func (e *Environment) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver.
func (e *Environment) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	name := VariableOf(flag.Name)
	value, ok := e.values[name]
	if !ok || flag.Name == "help" {
		return nil, nil
	}
	if flag.Name == "mqtt-password" {
		value = strings.TrimRight(value, "\r\n")
	} else {
		value = strings.TrimSpace(value)
	}
	// The parser would not say where a value that it cannot read has come from.
	trial := reflect.New(flag.Target.Type()).Elem()
	if err := flag.Parse(kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value}), trial); err != nil {
		return nil, fmt.Errorf("%w (from %s)", errors.Unwrap(err), name)
	}
	e.set[flag.Name] = true
	return value, nil
}

// Strangers are variables that begin like ours and are no flag of any command.
//
// One that is almost the name of a flag is a mistake, and an error: an instance that starts
// without --consumer-index, say, does another's work and leaves its own undone. Of the
// others the log tells. They may be meant for something else, and a program that refuses to
// start because of a variable that it does not know could not be run with the settings of
// its successor.
//
// Those that Kubernetes and Docker define for a service called "reactor" are nobody's
// mistake.
func (e *Environment) Strangers(root *kong.Node) (others []string, typo error) {
	known := map[string]string{} // by their names, what to write
	var walk func(*kong.Node)
	walk = func(node *kong.Node) {
		for _, flag := range node.Flags {
			name := VariableOf(flag.Name)
			known[name] = name
			if flag.Tag.Negatable != "" {
				known[VariableOf("no-"+flag.Name)] = name + "=false"
			}
		}
		for _, child := range node.Children {
			walk(child)
		}
	}
	walk(root)
	var typos []string
	for name, value := range e.values {
		if known[name] == name || serviceLink(name, value) {
			continue
		}
		if near := nearest(name, known); near != "" {
			typos = append(typos, fmt.Sprintf("the environment variable %s is no setting of reactor: did you mean %s?", name, near))
		} else {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	if len(typos) > 0 {
		return others, errors.New(slices.Min(typos))
	}
	return others, nil
}

// serviceLinks are https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
// and https://docs.docker.com/engine/network/links/#environment-variables.
var serviceLinks = regexp.MustCompile(`^REACTOR_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?|ENV_.+)$`)

func serviceLink(name, value string) bool {
	return serviceLinks.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

// nearest returns what to write instead of a name that is one or two slips away from a
// known one, or "".
func nearest(name string, known map[string]string) string {
	name = strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	best, least := "", 3 // slips
	if len(name) < len(variablePrefix)+8 {
		least = 2 // of a short name, two make another
	}
	for candidate, write := range known {
		if n := slips(name, candidate); n < least || n == least && best != "" && write < best {
			best, least = write, n
		}
	}
	return best
}

// slips is the Levenshtein distance: how many letters have to be added, left out or
// replaced to make b of a.
func slips(a, b string) int {
	row := make([]int, len(b)+1) // from the letters of a so far to each beginning of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
