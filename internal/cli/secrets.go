package cli

import (
	"slices"
	"strconv"
	"strings"
)

// withoutSecrets removes from an error what was given on the command line or in a variable and may hold a password,
// because errors are logged and the command line is not: a URL that went to the wrong flag, and the rest of a
// password with a space in it, which is an argument of its own.
func withoutSecrets(text string, args []string, env *Environment) string {
	given := slices.Clone(args)
	for _, arg := range args {
		if _, value, ok := strings.Cut(arg, "="); ok {
			given = append(given, value)
		}
	}
	for _, value := range env.values {
		given = append(given, value, strings.TrimSpace(value))
	}
	// The longest first: one can be a part of another.
	slices.SortFunc(given, func(a, b string) int { return len(b) - len(a) })
	for _, value := range given {
		if !strings.Contains(value, "://") || !strings.Contains(value, "@") {
			continue
		}
		quoted := strconv.Quote(value)
		text = strings.NewReplacer(value, hidden, quoted[1:len(quoted)-1], hidden).Replace(text)
	}
	if front, _, ok := strings.Cut(text, unexpected); ok && slices.ContainsFunc(args, givesSecret) {
		return front + unexpected + "behind the flags (not shown, as it may be a part of a password: put values with spaces in quotes)"
	}
	return text
}

const (
	hidden     = "(a URL, not shown)"
	unexpected = "unexpected argument "
)

// givesSecret reports whether an argument is a flag, or a URL, with a password in it.
func givesSecret(arg string) bool {
	name, _, _ := strings.Cut(arg, "=")
	return strings.HasPrefix(name, "--") && (strings.HasSuffix(name, "-url") || strings.Contains(name, "password")) || strings.Contains(arg, "://")
}
