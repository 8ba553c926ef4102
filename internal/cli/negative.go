package cli

import (
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// negative matches a value such as -2h or -5.
var negative = regexp.MustCompile(`^-[0-9]`)

// joinNegative joins a flag and a negative value behind it: --from -2h becomes --from=-2h. It moves other negative
// numbers, which are ids, behind all flags and a "--". The parser would take both for flags, and no flag of ours
// begins with a digit.
func joinNegative(args []string, root *kong.Node) []string {
	valued := map[string]bool{}
	var walk func(*kong.Node)
	walk = func(node *kong.Node) {
		for _, flag := range node.Flags {
			if !flag.IsBool() {
				valued["--"+flag.Name] = true
				if flag.Short != 0 {
					valued["-"+string(flag.Short)] = true
				}
			}
		}
		for _, child := range node.Children {
			walk(child)
		}
	}
	walk(root)
	var flags, ids []string
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--":
			return slices.Concat(flags, args[i:i+1], ids, args[i+1:])
		case valued[args[i]] && i+1 < len(args) && negative.MatchString(args[i+1]):
			separator := ""
			if strings.HasPrefix(args[i], "--") {
				separator = "="
			}
			flags = append(flags, args[i]+separator+args[i+1])
			i++
		case valued[args[i]] && i+1 < len(args):
			flags = append(flags, args[i], args[i+1])
			i++
		case negative.MatchString(args[i]):
			ids = append(ids, args[i])
		default:
			flags = append(flags, args[i])
		}
	}
	if ids != nil {
		flags = append(append(flags, "--"), ids...)
	}
	return flags
}
