package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
)

type jobsShow struct {
	databaseFlags
	ID      *int64   `arg:"" optional:"" help:"The id of the job."`
	Key     nonEmpty `env:"-" placeholder:"KEY" help:"The key of the job instead: the job that has not fired, otherwise the last one with this key."`
	Payload bool     `env:"-" help:"Write the payload and nothing else, byte by byte, to a file or a pipe."`
	JSON    bool     `env:"-" name:"json" help:"Print JSON."`
}

// Help is shown by `reactor jobs show --help`.
func (*jobsShow) Help() string {
	return `The history is what the database keeps: when the job was due, its last claim, its last refusal with the
number of attempts, and how it ended.`
}

func (c *jobsShow) Run(ctx context.Context, out cli.Output) error {
	if (c.ID == nil) == (c.Key == "") {
		return cli.Usage(errors.New("give the id of a job, or --key, and not both"))
	}
	if c.Payload && cli.IsTerminal(out.Stdout) {
		return cli.Usage(errors.New("--payload writes bytes that may change the terminal: redirect it to a file or a pipe"))
	}
	return pgsource.WithJobs(ctx, c.connString(), false, func(a *pgsource.JobsAdmin) error {
		var list []pgsource.JobDetail
		var err error
		if c.ID != nil {
			list, err = a.Show(ctx, *c.ID)
		} else {
			list, err = a.ShowKey(ctx, string(c.Key))
		}
		if err != nil {
			return err
		}
		if c.Payload {
			payload, err := a.Payload(ctx, list[0].ID)
			if err == nil {
				_, err = out.Stdout.Write(payload)
			}
			return err
		}
		for i, d := range list {
			if c.JSON {
				err = writeJSON(out.Stdout, detailJSONOf(d), true)
			} else {
				if i > 0 {
					fmt.Fprintln(out.Stdout)
				}
				err = writeDetail(out, d)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}, c.names())
}

// detailJSON is everything about a job in JSON.
type detailJSON struct {
	jobJSON
	Shard         int               `json:"shard"`
	ExpiresAt     string            `json:"expires_at,omitempty"`
	ProcessedAt   string            `json:"processed_at,omitempty"`
	OccurrenceAt  string            `json:"occurrence_at,omitempty"`
	Claim         string            `json:"claim,omitempty"`
	Partition     string            `json:"partition,omitempty"`
	PayloadText   *string           `json:"payload,omitempty"`
	PayloadHex    string            `json:"payload_hex,omitempty"`
	PayloadSize   int64             `json:"payload_size"`
	Truncated     bool              `json:"payload_truncated,omitempty"`
	QoS           *int              `json:"qos,omitempty"`
	Retain        bool              `json:"retain,omitempty"`
	ContentType   string            `json:"content_type,omitempty"`
	ResponseTopic string            `json:"response_topic,omitempty"`
	Correlation   string            `json:"correlation_data_hex,omitempty"`
	Headers       map[string]string `json:"headers,omitempty"`
	Flight        *flightJSON       `json:"in_flight,omitempty"`
	History       []eventJSON       `json:"history"`
}

type flightJSON struct {
	Lane      int    `json:"lane"`
	Batch     int64  `json:"batch"`
	Instance  string `json:"instance,omitempty"`
	ClaimedAt string `json:"claimed_at"`
	QoS       int    `json:"qos"`
	Accepted  bool   `json:"accepted_by_broker"`
}

type eventJSON struct {
	At   string `json:"at"`
	What string `json:"what"`
}

func detailJSONOf(d pgsource.JobDetail) detailJSON {
	j := detailJSON{
		jobJSON: jsonOf(d.Job), Shard: d.Shard, ExpiresAt: timeTextOf(d.ExpiresAt), ProcessedAt: timeTextOf(d.ProcessedAt), OccurrenceAt: timeTextOf(d.OccurrenceAt), Claim: d.Claim, Partition: d.PartitionedOff,
		PayloadSize: d.PayloadSize, Truncated: int64(len(d.Payload)) < d.PayloadSize, QoS: d.QoS, Retain: d.Retain,
		ContentType: d.ContentType, ResponseTopic: d.ResponseTopic, Correlation: hex.EncodeToString(d.Correlation), Headers: d.Headers,
	}
	if d.Binary {
		j.PayloadHex = hex.EncodeToString(d.Payload)
	} else {
		text := strings.ToValidUTF8(string(d.Payload), "") // the end may be inside of a character
		j.PayloadText = &text
	}
	if f := d.Flight; f != nil {
		j.Flight = &flightJSON{f.Lane, f.Batch, f.Instance, timeText(f.ClaimedAt), f.QoS, f.Accepted}
	}
	for _, e := range d.History {
		j.History = append(j.History, eventJSON{exactText(e.Time()), e.What})
	}
	return j
}

// shownBytes is how much of a payload is printed.
const shownBytes = 256

// beginning is the beginning of a text, and how long all of it is if that is more.
func beginning(text string) string {
	if len(text) <= shownBytes {
		return text
	}
	return fmt.Sprintf("%s… (the first %d of %s bytes)", strings.ToValidUTF8(text[:shownBytes], ""), shownBytes, words.Thousands(int64(len(text))))
}

// payloadText is the beginning of a payload as a text, or in hexadecimal digits if it is binary.
func payloadText(d pgsource.JobDetail) string {
	some := d.Payload[:min(len(d.Payload), shownBytes)]
	var text string
	if d.Binary {
		text = hex.EncodeToString(some)
	} else {
		text = cli.Visible(strings.ToValidUTF8(string(some), ""))
	}
	if int64(len(some)) < d.PayloadSize {
		return fmt.Sprintf("%s… (the first %d of %s bytes)", text, len(some), words.Thousands(d.PayloadSize))
	}
	return text
}

func writeDetail(out cli.Output, d pgsource.JobDetail) error {
	w := tabwriter.NewWriter(out.Stdout, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	line("id", fmt.Sprint(d.ID))
	line("state", cli.Visible(string(d.State)))
	line("order", cli.Visible(waitsText(d.Job)))
	line("reason", cli.Visible(d.Reason))
	line("code", codeText(d.Code))
	line("attempts", fmt.Sprint(d.Attempts))
	line("next attempt", timeTextOf(d.RetryAt))
	line("ended at", map[bool]string{true: timeTextOf(d.FailedAt)}[d.State != pgsource.JobBlocked])
	line("fire_at", exactText(d.FireTime()))
	line("expires_at", timeTextOf(d.ExpiresAt))
	line("processed_at", timeTextOf(d.ProcessedAt))
	line("key", cli.Visible(d.Key))
	line("ordering_key", cli.Visible(d.OrderingKey))
	if d.Schedule != 0 {
		name := "which was deleted"
		if d.ScheduleName != "" {
			name = "id " + fmt.Sprint(d.Schedule)
		}
		line("schedule", fmt.Sprintf("%s (%s)", cli.Visible(cmp.Or(d.ScheduleName, fmt.Sprint(d.Schedule))), name))
		line("occurrence_at", timeTextOf(d.OccurrenceAt))
	}
	line("topic", cli.Visible(d.Topic))
	line("payload", payloadText(d))
	kind := "text"
	if d.Binary {
		kind = "binary"
	}
	line("payload length", fmt.Sprintf("%s bytes, %s", words.Thousands(d.PayloadSize), kind))
	if d.QoS != nil {
		line("qos", fmt.Sprint(*d.QoS))
	}
	if d.Retain {
		line("retain", "yes")
	}
	line("content_type", cli.Visible(d.ContentType))
	line("response_topic", cli.Visible(d.ResponseTopic))
	line("correlation_data", hex.EncodeToString(d.Correlation))
	for _, name := range slices.Sorted(maps.Keys(d.Headers)) {
		line("header", cli.Visible(name)+": "+cli.Visible(d.Headers[name]))
	}
	line("shard", fmt.Sprint(d.Shard))
	line("partition", cli.Visible(d.PartitionedOff))
	line("claim", d.Claim)
	if f := d.Flight; f != nil {
		owner := "no instance at the moment, another one is about to take it over"
		if f.Instance != "" {
			owner = "instance " + cli.Visible(f.Instance)
		}
		line("in flight", fmt.Sprintf("lane %d of %s, batch %d, QoS %d", f.Lane, owner, f.Batch, f.QoS))
		if f.Accepted {
			line("", "the broker has received the message")
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out.Stdout, "\nhistory")
	for _, e := range d.History {
		fmt.Fprintf(out.Stdout, "  %s  %s\n", exactText(e.Time()), cli.Visible(e.What))
	}
	return nil
}
