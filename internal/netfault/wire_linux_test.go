package netfault_test

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/job-publisher/reactor/internal/netfault"
)

// newWire returns a network. It returns nil if this process is not root; then the test only
// checks that the error is ErrNoWire.
func newWire(t *testing.T) *netfault.Wire {
	t.Helper()
	w, err := netfault.NewWire()
	if errors.Is(err, netfault.ErrNoWire) && os.Geteuid() != 0 {
		t.Logf("not root: %v", err)
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// wirePair returns a function that opens a connection over a Wire.
func wirePair(t *testing.T, w *netfault.Wire) func() (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	proxy, err := w.Proxy(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	return func() (*net.TCPConn, *net.TCPConn) {
		t.Helper()
		var client net.Conn
		if err := w.Do(func() (err error) {
			client, err = net.DialTimeout("tcp", proxy.Addr(), limit)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []net.Conn{client, server} {
			_ = c.SetDeadline(time.Now().Add(limit))
			t.Cleanup(func() { c.Close() })
		}
		return client.(*net.TCPConn), server.(*net.TCPConn)
	}
}

func setUserTimeout(t *testing.T, c *net.TCPConn, d time.Duration) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	if err := errors.Join(raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	}), set); err != nil {
		t.Fatal(err)
	}
}

// The kernel itself detects a black hole of a Wire, by TCP_USER_TIMEOUT. New connections
// work.
func TestWireBlackHoleIsDetectedByTheKernel(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	if w == nil {
		return
	}
	dial := wirePair(t, w)
	client, server := dial()
	setUserTimeout(t, client, 300*time.Millisecond)
	send(t, client, "before")
	receive(t, server, "before")
	send(t, server, "answer")
	receive(t, client, "answer")
	if err := w.BlackHole(); err != nil {
		t.Fatal(err)
	}
	send(t, client, "vanishes")
	send(t, server, "vanishes as well")
	if got, err := readToEnd(client); !errors.Is(err, syscall.ETIMEDOUT) || got != "" {
		t.Errorf("client: %q, %v; want ETIMEDOUT", got, err)
	}
	if from, was := client.LocalAddr().(*net.TCPAddr).IP, client.RemoteAddr().(*net.TCPAddr).IP; from.Equal(was) {
		t.Errorf("both ends have the address %s", from)
	}
	client, server = dial()
	send(t, client, "new ones work")
	receive(t, server, "new ones work")
}

// While a Wire is cut, nothing arrives. After Restore everything arrives, because TCP sends
// it again.
func TestWireCutAndRestore(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	if w == nil {
		return
	}
	dial := wirePair(t, w)
	client, server := dial()
	if err := w.Cut(); err != nil {
		t.Fatal(err)
	}
	send(t, client, "late")
	mustReceiveNothing(t, server)
	if err := w.Restore(); err != nil {
		t.Fatal(err)
	}
	receive(t, server, "late")
}
