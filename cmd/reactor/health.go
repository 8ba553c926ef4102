package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
)

// healthCommand is `reactor health`.
type healthCommand struct {
	httpFlags
	Live    bool          `env:"-" help:"Ask /healthz instead: whether the process goes on, also while the database or the broker is away."`
	Timeout time.Duration `env:"-" default:"5s" help:"How long to wait for the answer (default ${default})."`
}

// Help is shown by `reactor health --help`.
func (*healthCommand) Help() string {
	return `Asks a running instance on this host whether it publishes jobs that are due (/readyz). Prints one line. The
exit status is 0 if it does, and 1 if it does not or does not answer.

It is the healthcheck of a container without a shell:

  HEALTHCHECK CMD ["/reactor", "health"]

It asks where the instance serves, so give both the same --http-addr, best as REACTOR_HTTP_ADDR.`
}

// maxHealthAnswer is how much of an answer is read. An answer has a few kilobytes.
const maxHealthAnswer = 1 << 20

// Run asks, and prints the answer.
func (c *healthCommand) Run(ctx context.Context, out cli.Output) error {
	path := "/readyz"
	if c.Live {
		path = "/healthz"
	}
	url, err := c.url(path)
	if err != nil {
		return cli.Usage(err)
	}
	if c.Timeout <= 0 {
		return cli.Usage(fmt.Errorf("--timeout is %v, must be more than 0s", c.Timeout))
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	ok, text, err := askHealth(ctx, url)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer from %s within %v", url, c.Timeout)
	}
	if err != nil {
		return fmt.Errorf("cannot ask %s: %w: is an instance running here, with this --http-addr?", url, err)
	}
	if !ok {
		return errors.New(text)
	}
	_, err = fmt.Fprintln(out.Stdout, text)
	return err
}

// askHealth returns the answer of /readyz or /healthz, as a line.
func askHealth(ctx context.Context, url string) (ok bool, text string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, "", err
	}
	// An instance is on this host: no proxy of the environment leads to it.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return false, "", unwrapURL(err)
	}
	defer response.Body.Close()
	var answer struct {
		Status   string   `json:"status"`
		Problems []string `json:"problems"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxHealthAnswer)).Decode(&answer); err != nil || answer.Status == "" {
		return false, "", fmt.Errorf("the answer (%s) is not that of an instance", response.Status)
	}
	text = answer.Status
	if len(answer.Problems) > 0 {
		text += ": " + strings.Join(answer.Problems, "; ")
	}
	return response.StatusCode == http.StatusOK, cli.Visible(text), nil
}

// unwrapURL returns the cause of a client's error, without the URL, which the caller names.
func unwrapURL(err error) error {
	if cause := errors.Unwrap(err); cause != nil {
		return cause
	}
	return err
}
