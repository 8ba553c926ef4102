package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/job-publisher/reactor/internal/cli"
)

// errUnconfirmed: nobody has said yes, so nothing was changed.
var errUnconfirmed = errors.New("nothing was changed")

// confirm asks on the terminal whether to go on; with yes it does not ask. Where there is no terminal
// nobody could answer, so yes has to be given.
func confirm(ctx context.Context, out cli.Output, question string, yes bool) error {
	if yes {
		return nil
	}
	if !cli.IsTerminal(os.Stdin) {
		return fmt.Errorf("%s: there is no terminal to confirm it on: add --yes", question)
	}
	return ask(ctx, os.Stdin, out.Stderr, question)
}

// ask returns nil if the answer is yes. A signal ends the wait for it.
func ask(ctx context.Context, in io.Reader, out io.Writer, question string) error {
	fmt.Fprintf(out, "%s? [y/N] ", question)
	answers := make(chan string, 1)
	go func() { // ends with the answer, or with the process
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && line == "" {
			fmt.Fprintln(out)
		}
		answers <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		return errUnconfirmed
	case answer := <-answers:
		if answer == "y" || answer == "yes" {
			return nil
		}
		return fmt.Errorf("%w: answer yes, or add --yes", errUnconfirmed)
	}
}
