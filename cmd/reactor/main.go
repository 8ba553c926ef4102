// Command reactor publishes the rows of a PostgreSQL table to an MQTT broker, each
// at its time.
package main

import (
	"github.com/alecthomas/kong"

	"github.com/job-publisher/reactor/internal/cli"
)

const description = `Publishes the jobs of a PostgreSQL table to an MQTT broker, each at its fire_at.

Insert rows into the table jobs from any program; any number of instances of
"reactor run" share the work. The program reactor-lab demonstrates and measures this on
servers of its own.`

// commands are the commands of the command line.
type commands struct {
	Run         runCommand         `cmd:"" help:"Publish jobs as they fall due."`
	Migrate     migrateCommand     `cmd:"" help:"Bring the database's schema up to date, look at it, or undo it."`
	Jobs        jobsCommand        `cmd:"" help:"List, show, cancel, reschedule, fire, retry and purge jobs."`
	Partitions  partitionsCommand  `cmd:"" help:"Maintain the partitions of the table: make new ones, drop old ones."`
	Schedules   schedulesCommand   `cmd:"" help:"Manage jobs that recur."`
	Health      healthCommand      `cmd:"" help:"Ask a running instance whether it publishes jobs; for healthchecks of containers."`
	Status      statusCommand      `cmd:"" help:"Show the instances, what waits and what fires next, and how late jobs were."`
	Doctor      doctorCommand      `cmd:"" help:"Examine everything that an instance depends on, and say what is wrong and what to do. Changes nothing."`
	CheckBroker checkBrokerCommand `cmd:"" help:"Ask a broker everything that the delivery modes depend on, and say which are possible."`
	Version     versionCommand     `cmd:"" help:"Print the version."`
}

func main() { newProgram(&commands{}).Main() }

func newProgram(c *commands) cli.Program {
	return cli.Program{Name: "reactor", Description: description, Commands: c, Strict: true, Options: []kong.Option{runDefaults(), brokerOptional()}}
}
