package main

import (
	"io"
	"strings"
	"unicode"

	"github.com/job-publisher/reactor/internal/cli"
)

// column is a column of a table.
type column struct {
	title string
	// shorten says where a text is shortened that is too long for a terminal. Elsewhere nothing is shortened.
	shorten shortening
}

type shortening int

const (
	whole     shortening = iota // never
	atTheEnd                    // reasons: they begin with what matters
	inTheHalf                   // topics and keys: both ends tell what they are
)

// leastCells is how short a column may get. On a terminal that is narrower still, lines are broken.
const leastCells = 8

// gap is between two columns.
const gap = "  "

// writeTable writes rows below titles. Everything that does not print is escaped.
func writeTable(w io.Writer, columns []column, rows [][]string) error {
	return layOut(w, columns, rows, cli.Columns(w))
}

// layOut is writeTable for a terminal of some width; 0: for a file or a pipe.
func layOut(w io.Writer, columns []column, rows [][]string, width int) error {
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	lines := [][]string{titles}
	for _, row := range rows {
		line := make([]string, len(row))
		for i, text := range row {
			line[i] = cli.Visible(text)
		}
		lines = append(lines, line)
	}
	widths := make([]int, len(columns))
	for _, line := range lines {
		for i, text := range line {
			widths[i] = max(widths[i], cells(text))
		}
	}
	if width > 0 {
		fit(widths, columns, width)
	}
	var b strings.Builder
	for _, line := range lines {
		written, place := 0, 0 // cells: how many are written, and where the next text belongs
		for i, text := range line {
			if width > 0 {
				text = shorten(text, widths[i], columns[i].shorten)
			}
			if text != "" { // so that no line ends with spaces
				b.WriteString(strings.Repeat(" ", place-written) + text)
				written = place + cells(text)
			}
			place += widths[i] + len(gap)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fit makes the widest of the columns that may be shortened narrower, until the table has the width.
func fit(widths []int, columns []column, width int) {
	total := len(gap) * (len(widths) - 1)
	for _, n := range widths {
		total += n
	}
	for ; total > width; total-- {
		widest := -1
		for i, c := range columns {
			if c.shorten != whole && widths[i] > max(leastCells, cells(c.title)) && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
	}
}

// shorten makes a text fit into some cells, with an ellipsis for what is left out.
func shorten(text string, most int, how shortening) string {
	if how == whole || cells(text) <= most {
		return text
	}
	letters := []rune(text)
	front := most - 1
	if how == inTheHalf {
		front = most / 2
	}
	var head, tail int // as many letters at the front, and at the end
	used := 0
	for ; head < len(letters) && used+cellsOf(letters[head]) <= front; head++ {
		used += cellsOf(letters[head])
	}
	for ; tail < len(letters)-head && used+cellsOf(letters[len(letters)-1-tail]) <= most-1 && how == inTheHalf; tail++ {
		used += cellsOf(letters[len(letters)-1-tail])
	}
	return string(letters[:head]) + "…" + string(letters[len(letters)-tail:])
}

// cells is how many places a text takes on a terminal.
func cells(text string) (n int) {
	for _, r := range text {
		n += cellsOf(r)
	}
	return n
}

// cellsOf is 0 for accents that are put on the letter before, 2 for the letters of East Asia and for pictures, as
// most terminals show them (Unicode Standard Annex #11), and otherwise 1.
func cellsOf(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf && r != 0x303f, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1f64f, r >= 0x1f680 && r <= 0x1f9ff,
		r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}
