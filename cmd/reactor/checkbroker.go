package main

import (
	"context"
	"errors"

	"github.com/alecthomas/kong"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// checkBrokerCommand is `reactor check-broker`.
type checkBrokerCommand struct {
	URL string `arg:"" optional:"" type:"url" help:"The broker, instead of --mqtt-url."`
	brokerFlags
	deliveryFlags
	JSON bool `env:"-" name:"json" help:"Print JSON: an object with verdict and the list findings."`
}

// Help is shown by `reactor check-broker --help`.
func (*checkBrokerCommand) Help() string {
	return `It connects with client ids of its own (reactor-probe-…), publishes a few messages to topics below
reactor/stage/, and leaves nothing behind. Every user of this machine can see arguments: give a URL with a
password by REACTOR_MQTT_URL. The last lines say what was found means for each delivery mode.

The exit code is 0 if the broker serves for --delivery, 1 if it does not, and 2 if the command line is
wrong.`
}

func (c *checkBrokerCommand) Run(ctx context.Context, out cli.Output) error {
	if c.URL != "" {
		c.MQTTURL = brokerURLs(c.URL)
	}
	if c.MQTTURL == "" {
		return cli.Usage(errors.New("no broker is given: name its URL, e.g. mqtt://user:password@host:1883"))
	}
	findings, err := examineBroker(ctx, c.brokerFlags, c.Delivery)
	if err != nil {
		return err
	}
	return report(out, findings, c.JSON)
}

// examineBroker asks everything about the broker of the flags.
func examineBroker(ctx context.Context, f brokerFlags, delivery reactor.Delivery) ([]driver.Finding, error) {
	sink, err := mqttsink.New(f.config(nil))
	if err != nil {
		return nil, cli.Usage(err)
	}
	findings := sink.Examine(ctx, delivery.QoS())
	return findings, ctx.Err()
}

// brokerOptional lets the commands that only examine do without a broker's URL, which an instance needs.
func brokerOptional() kong.Option {
	return kong.PostBuild(func(parser *kong.Kong) error {
		for _, command := range parser.Model.Children {
			if command.Name != "doctor" && command.Name != "check-broker" {
				continue
			}
			for _, flag := range command.Flags {
				if flag.Name == "mqtt-url" {
					flag.Required = false
				}
			}
		}
		return nil
	})
}
