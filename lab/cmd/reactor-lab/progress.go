package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
)

// progress shows a progress bar. On a terminal it redraws one line; otherwise it prints a line
// per second.
type progress struct {
	out      io.Writer
	interval time.Duration
	redraw   bool
	begun    time.Time
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out, interval: time.Second, begun: time.Now()}
	if cli.IsTerminal(out) {
		p.interval, p.redraw = 100*time.Millisecond, true
	}
	return p
}

func (p *progress) update(text string, done, total int) {
	const width = 40
	filled := min(width, done*width/max(total, 1))
	line := fmt.Sprintf("%5.1fs  [%s%s]  %s", time.Since(p.begun).Seconds(), strings.Repeat("█", filled), strings.Repeat("·", width-filled), text)
	if p.redraw {
		fmt.Fprintf(p.out, "\r\033[K%s", line)
	} else {
		fmt.Fprintln(p.out, line)
	}
}

// end finishes the last line and prints an empty one.
func (p *progress) end() {
	if p.redraw {
		fmt.Fprintln(p.out)
	}
	fmt.Fprintln(p.out)
}
