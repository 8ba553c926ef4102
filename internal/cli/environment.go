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

// variablePrefix is the prefix of the environment variable of a flag: REACTOR_LANES sets --lanes.
const variablePrefix = "REACTOR_"

// VariableOf returns the name of a flag's environment variable.
func VariableOf(flag string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Environment sets flags that are not on the command line from environment variables.
//
// A variable that is empty or only white space counts as not set, because docker-compose and
// CI systems turn an unset variable into an empty one. White space around a value is removed,
// because a value that comes from a file ends with a line break. From a password only the line
// break is removed.
type Environment struct {
	values map[string]string // our variables, by name
	set    map[string]bool   // flags that were set from a variable
}

// NewEnvironment returns the Environment of entries like those of os.Environ.
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

// WithoutFlags removes the variables that an instance would read as its settings.
func WithoutFlags(environ []string) []string {
	return slices.DeleteFunc(environ, func(entry string) bool { return strings.HasPrefix(entry, variablePrefix) })
}

// Gave reports whether a flag was set from a variable.
func (e *Environment) Gave(flag string) bool { return e.set[flag] }

// hasPrefix reports whether a variable has our prefix. It ignores case, to detect a mistake
// such as reactor_lanes, which sets nothing.
func hasPrefix(name string) bool {
	n := len(variablePrefix)
	return len(name) > n && strings.EqualFold(name[:n], variablePrefix)
}

// fromLineOnly reports whether a flag has no variable: its tag says env:"-". A variable that somebody has
// forgotten must not select the jobs that a command deletes.
func fromLineOnly(value *kong.Value) bool { return slices.Contains(value.Tag.Envs, "-") }

// Validate implements kong.Resolver.
func (e *Environment) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver.
func (e *Environment) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	name := VariableOf(flag.Name)
	value, ok := e.values[name]
	if !ok || flag.Name == "help" || fromLineOnly(flag.Value) {
		return nil, nil
	}
	if flag.Name == "mqtt-password" {
		value = strings.TrimRight(value, "\r\n")
	} else {
		value = strings.TrimSpace(value)
	}
	// If the value is invalid, the error must name the variable. The parser's error does not.
	trial := reflect.New(flag.Target.Type()).Elem()
	if err := flag.Parse(kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value}), trial); err != nil {
		return nil, fmt.Errorf("%w (from %s)", errors.Unwrap(err), name)
	}
	e.set[flag.Name] = true
	return value, nil
}

// UnknownVariables finds variables that have our prefix but belong to no flag of any command.
//
// If the name is almost that of a flag's variable, it is probably a typo, which is an error: an
// instance that starts without --consumer-index, for example, does the work of another instance
// and does not do its own. The other unknown variables are returned, to be logged. They are no
// error for two reasons: they may be for another program, and an older version must be able to
// start with the settings of a newer one.
//
// Variables that Kubernetes and Docker define for a service with the name "reactor" are ignored.
func (e *Environment) UnknownVariables(root *kong.Node) (others []string, typo error) {
	known := map[string]string{} // name of a variable → what to write instead of a similar name
	var walk func(*kong.Node)
	walk = func(node *kong.Node) {
		for _, flag := range node.Flags {
			if fromLineOnly(flag.Value) {
				continue
			}
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

// nearest returns what to write instead of a name whose edit distance to a known name is at
// most 2, or "" if there is no such name.
func nearest(name string, known map[string]string) string {
	name = strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	best, bestDistance := "", 3 // the distance must be less, or equal to that of best
	if len(name) < len(variablePrefix)+8 {
		bestDistance = 2 // a short name with two edits may be a different word
	}
	for candidate, write := range known {
		if n := editDistance(name, candidate); n < bestDistance || n == bestDistance && best != "" && write < best {
			best, bestDistance = write, n
		}
	}
	return best
}

// editDistance is the Levenshtein distance: how many letters have to be added, removed or
// replaced to turn a into b. Time is O(len(a)·len(b)), memory O(len(b)).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1) // distance from the letters of a so far to each prefix of b
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
