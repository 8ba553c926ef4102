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

// TestHarden: a host that is gone is noticed soon, whether something was sent to it or not, and
// under TLS as well. A connection to a host that answers stays open, however idle it is.
func TestHarden(t *testing.T) {
	const timeout = 2 * time.Second
	for name, test := range map[string]struct{ gone, busy, wrapped bool }{
		"gone, idle":        {gone: true},
		"gone, busy":        {gone: true, busy: true},
		"gone, busy in TLS": {gone: true, busy: true, wrapped: true},
		"there, idle":       {},
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
			if test.gone {
				if err := netfault.Blackhole(server); err != nil {
					t.Fatal(err)
				}
			}
			if test.busy {
				if _, err := client.Write([]byte("anybody there?")); err != nil {
					t.Fatal(err)
				}
			}
			limit := 2*timeout + 2*time.Second
			if err := client.SetReadDeadline(time.Now().Add(limit)); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			_, err := client.Read(make([]byte, 1))
			if gone := errors.Is(err, syscall.ETIMEDOUT); gone != test.gone {
				t.Errorf("after %v: %v", time.Since(begun), err)
			}
			if took := time.Since(begun); test.gone && took < timeout/2 {
				t.Errorf("given up after %v", took)
			}
		})
	}
}

func TestHardenLeavesOthersAlone(t *testing.T) {
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
		t.Error("options of a closed connection were set")
	}
}
