package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/lab/internal/bench"
)

// drawFlags are where the results are drawn.
type drawFlags struct {
	Report string `group:"Output" type:"path" placeholder:"FILE.html" help:"Write a page with charts and all tables to this file; it is complete in itself, and loads nothing."`
	Plot   string `group:"Output" type:"path" placeholder:"FILE.svg" help:"Draw lateness and throughput into this file."`
}

// drawing is the open files of drawFlags.
type drawing struct{ report, plot io.WriteCloser }

// open opens the files.
func (f drawFlags) open(stdout io.Writer) (d drawing, err error) {
	if d.report, err = create(f.Report, stdout); err != nil {
		return d, err
	}
	if d.plot, err = create(f.Plot, stdout); err != nil {
		d.report.Close()
	}
	return d, err
}

// write draws into the files, and closes them.
func (d drawing) write(r bench.Result) error {
	return errors.Join(r.Report(d.report), d.report.Close(), r.Plot(d.plot), d.plot.Close())
}

// close closes the files, also after write.
func (d drawing) close() {
	d.report.Close()
	d.plot.Close()
}

// drawCommand is `reactor-lab draw`.
type drawCommand struct {
	Results string `arg:"" type:"path" placeholder:"FILE.json" help:"What bench --json has written."`
	drawFlags
}

// Run draws.
func (c *drawCommand) Run(out cli.Output) error {
	if c.Report == "" && c.Plot == "" {
		return cli.Usage(errors.New("give --report, --plot or both: where to draw"))
	}
	text, err := os.ReadFile(c.Results)
	if err != nil {
		return err
	}
	var r bench.Result
	if err := json.Unmarshal(text, &r); err != nil || r.At.IsZero() {
		return fmt.Errorf("%s is not what bench --json writes", c.Results)
	}
	draw, err := c.open(out.Stdout)
	if err != nil {
		return err
	}
	defer draw.close()
	return draw.write(r)
}
