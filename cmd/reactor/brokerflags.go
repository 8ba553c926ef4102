package main

import (
	"bytes"
	"log/slog"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/mqttsink"
)

// brokerFlags say where the broker is, and how to get in. Each command that connects to it has them.
type brokerFlags struct {
	MQTTURL          brokerURLs    `required:"" name:"mqtt-url" group:"Broker" placeholder:"URL" help:"MQTT 5 broker, e.g. mqtt://user:password@host:1883, with TLS mqtts://host:8883, in a WebSocket ws://host:80/mqtt or wss://host:443/mqtt. Several, separated by commas or by repeating the flag, are a primary and its standbys, or the nodes of a cluster, the preferred one first."`
	FailoverAfter    time.Duration `name:"mqtt-failover-after" default:"10s" group:"Broker" help:"Several brokers: how long the one that was in use is tried before the next (default ${default}); 0s: not at all."`
	MQTTUsername     string        `name:"mqtt-username" group:"Broker" placeholder:"USER" help:"User, if it is not in the URL."`
	MQTTPassword     string        `name:"mqtt-password" group:"Broker" placeholder:"PASSWORD" help:"Password, if it is not in the URL. Every user of this machine can see the flags of a program: give it by the variable, or by a file."`
	MQTTUsernameFile string        `name:"mqtt-username-file" type:"path" group:"Broker" placeholder:"FILE" help:"File that contains the user. It is read at each connect."`
	MQTTPasswordFile string        `name:"mqtt-password-file" type:"path" group:"Broker" placeholder:"FILE" help:"File that contains the password. It is read at each connect, so that a changed password needs no restart."`
	MQTTCA           string        `name:"mqtt-ca" type:"path" group:"Broker" placeholder:"FILE" help:"TLS: certificates (PEM) of the authorities that may have signed the broker's certificate; those of the system if not given. It is read at each connect, like the next two."`
	MQTTCert         string        `name:"mqtt-cert" type:"path" group:"Broker" placeholder:"FILE" help:"TLS: our certificate (PEM), for a broker that wants one."`
	MQTTKey          string        `name:"mqtt-key" type:"path" group:"Broker" placeholder:"FILE" help:"TLS: the private key of our certificate (PEM)."`
	MQTTServerName   string        `name:"mqtt-server-name" group:"Broker" placeholder:"NAME" help:"TLS: the name that the broker's certificate has to have; the host of the URL if not given."`
}

// brokerURLs are one or several URLs, separated by commas. The flag can be repeated.
type brokerURLs string

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *brokerURLs) UnmarshalText(text []byte) error {
	if *u != "" {
		*u += ","
	}
	*u += brokerURLs(bytes.TrimSpace(text)) // a file ends with a line break
	return nil
}

// config returns the configuration that the flags stand for.
func (f brokerFlags) config(log *slog.Logger) mqttsink.Config {
	return mqttsink.Config{
		URL: string(f.MQTTURL), FailoverAfter: cli.Given(f.FailoverAfter), Username: f.MQTTUsername, Password: f.MQTTPassword, UsernameFile: f.MQTTUsernameFile, PasswordFile: f.MQTTPasswordFile,
		CAFile: f.MQTTCA, CertFile: f.MQTTCert, KeyFile: f.MQTTKey, ServerName: f.MQTTServerName, Logger: log,
	}
}
