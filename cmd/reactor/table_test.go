package main

import (
	"strings"
	"testing"
)

// TestTableFits: on a terminal a table is as wide as that, with what was left out marked; elsewhere it is whole.
func TestTableFits(t *testing.T) {
	columns := []column{{"ID", whole}, {"TOPIC", inTheHalf}, {"REASON", atTheEnd}}
	topic := "plant/" + strings.Repeat("hall/", 30) + "temperature"
	rows := [][]string{{"1", topic, "not authorized"}, {"22", "日本" + strings.Repeat("語", 60), "quota\x1b[31m exceeded " + strings.Repeat("x", 300)}, {"333", "a", ""}}
	for _, width := range []int{0, 20, 60, 80, 200, 1000} {
		var b strings.Builder
		if err := layOut(&b, columns, rows, width); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		if len(lines) != 4 || strings.Contains(b.String(), "\x1b") {
			t.Errorf("width %d:\n%s", width, b.String())
		}
		for _, line := range lines {
			if least := 3 + 2 + leastCells + 2 + leastCells; width > 0 && cells(line) > max(width, least) {
				t.Errorf("a line takes %d cells of %d: %s", cells(line), width, line)
			}
		}
		if whole := strings.Contains(b.String(), topic) && strings.Contains(b.String(), strings.Repeat("x", 300)); whole != (width == 0 || width == 1000) || whole == strings.Contains(b.String(), "…") {
			t.Errorf("width %d: it is whole: %v\n%s", width, whole, b.String())
		}
		if width == 80 && (!strings.Contains(lines[1], "plant/hall/") || !strings.Contains(lines[1], "…") || !strings.Contains(lines[1], "temperature")) {
			t.Errorf("both ends of a topic should be there: %s", lines[1])
		}
		// The third column begins in the same cell everywhere.
		at := cells(lines[0][:strings.Index(lines[0], "REASON")])
		if got := cells(lines[1][:strings.LastIndex(lines[1], "not")]); got != at {
			t.Errorf("width %d: a reason begins in cell %d, want %d:\n%s", width, got, at, b.String())
		}
	}
}

func TestShorten(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		how  shortening
		want string
	}{
		{"abcdef", 6, atTheEnd, "abcdef"},
		{"abcdefg", 6, atTheEnd, "abcde…"},
		{"abcdefg", 6, inTheHalf, "abc…fg"},
		{"abcdefg", 5, inTheHalf, "ab…fg"},
		{"abcdefg", 2, whole, "abcdefg"},
		{"日本語日本語", 8, atTheEnd, "日本語…"},
		{"日本語日本語", 8, inTheHalf, "日本…語"},
		{"e\u0301e\u0301e\u0301", 3, inTheHalf, "e\u0301e\u0301e\u0301"},
		{"", 3, inTheHalf, ""},
	} {
		if got := shorten(c.text, c.most, c.how); got != c.want {
			t.Errorf("%q in %d cells: %q, want %q", c.text, c.most, got, c.want)
		}
	}
}
