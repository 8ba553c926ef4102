// Command signalprinter prints the signals that it receives. The tests of package testkit run it.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGCONT)
	fmt.Println("ready", os.Getenv("SIGNALPRINTER_NAME"), len(os.Args)-1)
	for sig := range signals {
		fmt.Fprintln(os.Stderr, "got", sig)
		if sig == syscall.SIGTERM {
			os.Exit(7)
		}
	}
}
