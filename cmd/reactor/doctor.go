package main

import (
	"context"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// doctorCommand is `reactor doctor`.
type doctorCommand struct {
	databaseFlags
	instanceFlags
	brokerFlags
	deliveryFlags
	JSON bool `env:"-" name:"json" help:"Print JSON: an object with verdict and the list findings."`
}

// Help is shown by `reactor doctor --help`.
func (*doctorCommand) Help() string {
	return `Give it the flags and variables of the instances, and their role. Without --mqtt-url it examines the
database alone. It only reads there, and needs no more rights than an instance: what it may not ask is
marked by a question mark. What it does at the broker: reactor check-broker --help.

The exit code is 0 if there is no problem (there may be warnings), 1 if there is one, and 2 if the command
line is wrong.`
}

func (c *doctorCommand) Run(ctx context.Context, out cli.Output) error {
	findings, err := pgsource.Examine(ctx, pgsource.Config{
		DatabaseURL: c.connString(), Schema: c.Schema, JobsTable: c.JobsTable, Feed: c.Feed, ListenURL: c.withPassword(c.ListenURL), MaxConns: cli.Given(c.DatabaseConnections),
	})
	if err != nil {
		return cli.Usage(err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c.MQTTURL == "" {
		findings = append(findings, driver.Finding{Check: "broker", Verdict: driver.Unknown, What: "not asked, because none is given", Remedy: "give --mqtt-url, or run `reactor check-broker URL`"})
		return report(out, findings, c.JSON)
	}
	ofBroker, err := examineBroker(ctx, c.brokerFlags, c.Delivery)
	if err != nil {
		return err
	}
	findings = append(findings, ofBroker...)
	return report(out, findings, c.JSON)
}
