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

	// startAttempts is how many ports a start tries. Another process may bind a port
	// after we have chosen it and before the server binds it.
	startAttempts = 5

	lowestPort = 10000
)

// freePort returns a port of 127.0.0.1 that is not in use.
//
// The port is below the range from which the kernel takes local ports of outgoing
// connections. Otherwise, while a server is stopped, any client on this machine could get
// its port, and the server could not be started again.
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

// onFreePort starts a server on the given port or, if that is 0, on a free one. If another
// process has bound the free port meanwhile, it tries another port.
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

// FreePort returns a free port of 127.0.0.1 for a server that this package does not start.
// Another process may bind it first, so the caller must be prepared to try again.
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

// portTaken reports whether the port is in use.
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
