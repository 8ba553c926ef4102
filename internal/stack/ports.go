package stack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"syscall"
)

const (
	loopback = "127.0.0.1"

	// startAttempts is how often a start is tried with another port when the
	// port was taken between our choice and the server's bind.
	startAttempts = 5

	lowestPort = 10000
)

// freePort returns a port of 127.0.0.1 that nobody listens on right now.
//
// It is chosen below the range from which the kernel takes the local ports of
// outgoing connections: a server that is stopped and started again must find
// its port free, and any client on this machine might be given a port of that
// range in between.
func freePort() (int, error) {
	for range 100 {
		port := lowestPort + rand.IntN(lowestEphemeralPort()-lowestPort)
		if !portTaken(port) {
			return port, nil
		}
	}
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// onFreePort starts a server on a port of its choice, or on the given one where that is not
// 0. A port may be taken between our choice and the server's bind: then another one is tried.
func onFreePort(ctx context.Context, given int, start func(port int) error) error {
	var err error
	for range startAttempts {
		port := given
		if port == 0 {
			if port, err = freePort(); err != nil {
				return err
			}
		}
		err = start(port)
		if err == nil || given != 0 || ctx.Err() != nil || !portTaken(port) {
			return err
		}
	}
	return err
}

// FreePort is freePort for those who start a server of another kind.
// The port is free now; whoever binds it must be prepared to try again.
func FreePort() (int, error) { return freePort() }

// lowestEphemeralPort is 32768 on Linux by default and 49152 elsewhere.
func lowestEphemeralPort() int {
	const usual = 32768
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return usual
	}
	var low, high int
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil || low < lowestPort+1000 {
		return usual
	}
	return low
}

// portTaken reports whether someone holds the port.
func portTaken(port int) bool {
	l, err := net.Listen("tcp", address(port))
	if err != nil {
		return errors.Is(err, syscall.EADDRINUSE)
	}
	_ = l.Close()
	return false
}

func address(port int) string {
	return net.JoinHostPort(loopback, strconv.Itoa(port))
}
