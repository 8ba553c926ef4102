// Command reactor-lab demonstrates reactor, measures it, and tests it with faults. It runs
// reactor as a user would, as a separate program.
package main

import (
	"github.com/alecthomas/kong"

	"github.com/job-publisher/reactor/internal/cli"
)

const description = `Runs reactor on its own servers: a demonstration, a benchmark, and a test with faults.
Begin with:

  reactor-lab demo`

// commands are those of the command line.
type commands struct {
	Demo  demoCommand  `cmd:"" help:"Insert jobs and watch them fire, on a temporary PostgreSQL and broker."`
	Bench benchCommand `cmd:"" help:"Measure lateness and throughput."`
	Draw  drawCommand  `cmd:"" help:"Draw what bench has written as JSON: charts in a page, or a plot."`
	Chaos chaosCommand `cmd:"" help:"Make faults in a deployment, seed after seed, and check what was delivered."`
	Drain drainCommand `cmd:"" name:"bench-drain" hidden:"" help:"Publish the bench's jobs without reactor, for comparison."`
}

func main() {
	cli.Program{
		Name: "reactor-lab", Description: description, Commands: &commands{}, Options: []kong.Option{faultNames()},
	}.Main()
}
