package sockopt_test

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/sockopt"
)

// connected returns both ends of a TCP connection.
func connected(t *testing.T) (client net.Conn, server *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err = net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return client, accepted.(*net.TCPConn)
}

// TestHarden: an unreachable peer is detected within the timeout, on a busy and on an idle
// connection, and with TLS too. A connection to a peer that answers stays open, however long it is
// idle.
func TestHarden(t *testing.T) {
	const timeout = 2 * time.Second
	for name, test := range map[string]struct{ unreachable, busy, wrapped bool }{
		"unreachable, idle":          {unreachable: true},
		"unreachable, busy":          {unreachable: true, busy: true},
		"unreachable, busy with TLS": {unreachable: true, busy: true, wrapped: true},
		"reachable, idle":            {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, server := connected(t)
			hardened := client
			if test.wrapped {
				hardened = tls.Client(client, &tls.Config{})
			}
			if err := sockopt.Harden(hardened, timeout); err != nil {
				t.Fatal(err)
			}
			if test.unreachable {
				if err := netfault.Blackhole(server); err != nil {
					t.Fatal(err)
				}
			}
			if test.busy {
				if _, err := client.Write([]byte("data")); err != nil {
					t.Fatal(err)
				}
			}
			limit := 2*timeout + 2*time.Second
			if err := client.SetReadDeadline(time.Now().Add(limit)); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			_, err := client.Read(make([]byte, 1))
			if timedOut := errors.Is(err, syscall.ETIMEDOUT); timedOut != test.unreachable {
				t.Errorf("after %v: error %v; want ETIMEDOUT: %t", time.Since(begun), err, test.unreachable)
			}
			if took := time.Since(begun); test.unreachable && took < timeout/2 {
				t.Errorf("the connection ended after %v, want at least %v", took, timeout/2)
			}
		})
	}
}

func TestHardenIgnoresOtherConnections(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	if err := sockopt.Harden(client, time.Second); err != nil {
		t.Error(err)
	}
}

func TestHardenClosed(t *testing.T) {
	client, _ := connected(t)
	client.Close()
	if err := sockopt.Harden(client, time.Second); err == nil {
		t.Error("no error for a closed connection")
	}
}
