package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// sheet is a table of the results. The text and the report have the same ones.
type sheet struct {
	head  []string // the first is the caption, if there is one
	rows  [][]string
	notes []string // what is said below
}

// row adds a row, unless all its cells but the first are empty.
func (s *sheet) row(name string, cells ...string) {
	for _, cell := range cells {
		if cell != "" {
			s.rows = append(s.rows, append([]string{name}, cells...))
			return
		}
	}
}

// write writes the table as text.
func (s sheet) write(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	for _, cells := range append([][]string{s.head}, s.rows...) {
		fmt.Fprintln(t, strings.Join(cells, "\t")+"\t")
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, note := range s.notes {
		fmt.Fprintln(out, note)
	}
	return nil
}

// positive returns an empty cell for 0: that the value was not measured.
func positive(format string, value float64) string {
	if value > 0 {
		return fmt.Sprintf(format, value)
	}
	return ""
}
