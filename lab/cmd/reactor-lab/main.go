// Command reactor-lab shows, measures and destroys deployments of reactor, which it runs as
// a user would: as the program that it is.
package main

import (
	"github.com/alecthomas/kong"

	"github.com/job-publisher/reactor/internal/cli"
)

const description = `Runs reactor on servers of its own, to show it, to measure it and to destroy it.
See it all at once:

  reactor-lab demo`

// commands are those of the command line.
type commands struct {
	Demo  demoCommand  `cmd:"" help:"Show the main job on a PostgreSQL and a broker of its own."`
	Bench benchCommand `cmd:"" help:"Measure lateness and throughput."`
	Chaos chaosCommand `cmd:"" help:"Destroy a deployment, seed after seed, and judge."`
	Drain drainCommand `cmd:"" name:"bench-drain" hidden:"" help:"Be what the bench compares with."`
}

func main() {
	cli.Program{
		Name: "reactor-lab", Description: description, Commands: &commands{}, Options: []kong.Option{faultNames()},
	}.Main()
}
