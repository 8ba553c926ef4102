// Command talker is what the test kit's own tests run: it says what happens to it.
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
	fmt.Println("ready", os.Getenv("TALKER_NAME"), len(os.Args)-1)
	for sig := range signals {
		fmt.Fprintln(os.Stderr, "got", sig)
		if sig == syscall.SIGTERM {
			os.Exit(7)
		}
	}
}
