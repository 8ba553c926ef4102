package cli

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestNegativeValues: a negative value belongs to the flag before it, and a negative number alone is an id.
func TestNegativeValues(t *testing.T) {
	var commands struct {
		Do struct {
			From string  `help:"" placeholder:"TIME"`
			N    int     `short:"n"`
			Yes  bool    `short:"y"`
			ID   []int64 `arg:"" optional:""`
		} `cmd:""`
	}
	parser, err := Program{Commands: &commands}.Parser(NewEnvironment(nil), kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) { t.Error("the parser ended the program") }))
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"do --from -2h":           "do --from=-2h",
		"do --from=-2h 5":         "do --from=-2h 5",
		"do -n -3 --yes":          "do -n-3 --yes",
		"do -5 --yes":             "do --yes -- -5",
		"do --yes -5 --from -1h":  "do --yes --from=-1h -- -5",
		"do --from 1 -5 7":        "do --from 1 7 -- -5",
		"do 3 -4 -- -6":           "do 3 -- -4 -6",
		"do --from --yes -5":      "do --from --yes -- -5",
		"do --from":               "do --from",
		"do --from -x":            "do --from -x",
		"do -- --from -2h -y -n3": "do -- --from -2h -y -n3",
	} {
		if got := strings.Join(joinNegative(strings.Fields(line), parser.Model.Node), " "); got != want {
			t.Errorf("%q becomes %q, want %q", line, got, want)
		}
	}
	if _, err := parser.Parse(joinNegative([]string{"do", "-7", "--from", "-2h", "-n", "-3"}, parser.Model.Node)); err != nil || commands.Do.From != "-2h" || commands.Do.N != -3 || !slices.Equal(commands.Do.ID, []int64{-7}) {
		t.Errorf("parsed %+v, %v", commands.Do, err)
	}
}
