package cli

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

func TestInFlagTerms(t *testing.T) {
	for text, want := range map[string]string{
		"":           "",
		"no field":   "no field",
		"a .Config.": "a .Config.",
		"give the database's own address as pgsource.Config.ListenURL":                           "give the database's own address as --listen-url",
		"set reactor.Config.Delivery to AtLeastOnce or AtMostOnce":                               "set --delivery to at-least-once or at-most-once",
		"broker x refused the connection: set reactor.Config.Delivery to AtLeastOnce.":           "broker x refused the connection: set --delivery to at-least-once.",
		"pgsource.Config.Feed is FeedWAL: wal_level is replica":                                  "--feed is wal: wal_level is replica",
		"or use the triggers (set pgsource.Config.Feed to FeedNotify)":                           "or use the triggers (set --feed to notify)",
		"and reactor.Config.OnSessionLoss is Fail":                                               "and --on-session-loss is fail",
		"lower pgsource.Config.MaxConns, or raise max_connections":                               "lower --database-connections, or raise max_connections",
		"more than pgsource.Config.MaxFeedWAL allows; mqttsink.Config.URL":                       "more than --max-feed-wal allows; --mqtt-url",
		"pgsource.Config.Deployment is PostgreSQL":                                               "--deployment is PostgreSQL",
		"mqttsink.Config.Dial has no flag, another.Config.Feed neither, AtLeastOnce is no value": "mqttsink.Config.Dial has no flag, another.Config.Feed neither, AtLeastOnce is no value",
	} {
		if got := InFlagTerms(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// TestLogInFlagTerms: fields are replaced in messages and in every kind of attribute.
func TestLogInFlagTerms(t *testing.T) {
	const field, flag = "pgsource.Config.ListenURL", "--listen-url"
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		log := LoggingFlags{LogFormat: format}.Logger(&out)
		log.With("with", "give "+field).WithGroup("group").Error("lacks "+field,
			"text", field, "err", fmt.Errorf("listen: %w", errors.New(field)), "list", []string{field, "x"}, slog.Group("inner", "text", field))
		if n := strings.Count(out.String(), flag); n != 6 || strings.Contains(out.String(), field) {
			t.Errorf("%s: the flag occurs %d times, want 6, and the field must not occur:\n%s", format, n, out.String())
		}
	}
}

// TestLogForPeople: durations are texts, errors that there were not are left out, and what a terminal would obey is
// escaped.
func TestLogForPeople(t *testing.T) {
	for format, want := range map[string]string{
		"json": `"after":"1.5s","in":{"pause":"10ms"},"n":5`,
		"text": `after=1.5s in.pause=10ms n=5`,
	} {
		var out bytes.Buffer
		var none error
		LoggingFlags{LogFormat: format}.Logger(&out).With("err", none).Info("done", "after", 1500*time.Millisecond, "err", none, slog.Group("in", "pause", 10*time.Millisecond, "err", none), "n", 5, "text", "\x1b[31m")
		if text := out.String(); !strings.Contains(text, want) || strings.Contains(text, "err") || strings.Contains(text, "\x1b") {
			t.Errorf("%s: %s\nwant %s and no err", format, text, want)
		}
	}
}

// TestErrorsAreVisible: an error is one line, and nothing in it changes the terminal.
func TestErrorsAreVisible(t *testing.T) {
	if got := oneLine(errors.New("a\nb\x1b]0;title\a \u009b31m\u202e")); got != `a; b\x1b]0;title\a \u009b31m\u202e` {
		t.Errorf("%q", got)
	}
}

// TestEveryConfigErrorHasAFlag: every field that a library refuses has a flag, or a reason for none.
func TestEveryConfigErrorHasAFlag(t *testing.T) {
	without := map[string]string{
		"Horizon": "no flag sets it", "Limit": "the command has checked it", "Busy": "the command has checked it",
		"To": "the command has checked it", "States": "the command has checked it", "Rows": "the page has its own", "steps": "the page has its own", "n": "the page has its own", "InFlight": "no flag sets it", "RetryAttempts": "no flag sets it", "RetryBackoff": "no flag sets it",
	}
	field := regexp.MustCompile(`ConfigError\{Field: "([A-Za-z]+)"`)
	found := 0
	for _, folder := range []string{"pgsource", "mqttsink", "reactor"} {
		files, err := filepath.Glob(filepath.Join("..", "..", folder, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			source, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, match := range field.FindAllStringSubmatch(string(source), -1) {
				found++
				if FlagOf[match[1]] == "" && without[match[1]] == "" && !strings.HasSuffix(name, "_test.go") {
					t.Errorf("%s refuses the field %s, which has no flag", name, match[1])
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("found %d errors, want at least 20: the search is probably broken", found)
	}
}

// TestEveryFieldHasAFlag reads the texts in the libraries' sources. Every field that they name must
// exist and have a flag, and every constant that they name as a field's value must have a flag value.
func TestEveryFieldHasAFlag(t *testing.T) {
	configs := map[string]reflect.Type{
		"pgsource": reflect.TypeFor[pgsource.Config](), "mqttsink": reflect.TypeFor[mqttsink.Config](), "reactor": reflect.TypeFor[reactor.Config](),
	}
	named := regexp.MustCompile(`\b(pgsource|mqttsink|reactor)\.Config\.([A-Za-z]+)(?:(?: is| to) ([A-Z][A-Za-z]*))?`)
	found := 0
	for folder := range configs {
		for path, text := range literals(t, filepath.Join("..", "..", folder)) {
			for _, match := range named.FindAllStringSubmatch(text, -1) {
				found++
				if _, ok := configs[match[1]].FieldByName(match[2]); !ok {
					t.Errorf("%s: %q names a field that %s.Config does not have", path, text, match[1])
				}
				if FlagOf[match[2]] == "" {
					t.Errorf("%s: %q names a field without a flag", path, text)
				}
				if match[3] != "" && valueOf[match[3]] == "" {
					t.Errorf("%s: %q names a value that is not in valueOf", path, text)
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("found %d names of fields, want at least 10: the search is probably broken", found)
	}
}

// literals returns the string literals of a package without its tests, by position. The parts of a
// concatenation are joined.
func literals(t *testing.T, folder string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources in %s: %v", folder, err)
	}
	texts := map[string]string{}
	positions := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(positions, name, source, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			expression, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			if text, ok := literal(expression); ok {
				texts[positions.Position(n.Pos()).String()] = text
				return false
			}
			return true
		})
	}
	return texts
}

// literal returns a string literal, or the literals of a concatenation joined.
func literal(e ast.Expr) (text string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(e.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		left, okLeft := literal(e.X)
		right, okRight := literal(e.Y)
		return left + right, okLeft || okRight
	}
	return "", false
}
