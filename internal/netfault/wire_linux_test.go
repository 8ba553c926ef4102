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

// newWire returns a network, or nil where this process may not make one; that it is told
// so is then what the test checks.
func newWire(t *testing.T) *netfault.Wire {
	t.Helper()
	w, err := netfault.NewWire()
	if errors.Is(err, netfault.ErrNoWire) && os.Geteuid() != 0 {
		t.Logf("not as root: %v", err)
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// wirePair opens connections over a wire.
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

// The kernel itself finds a black hole of a wire, by TCP_USER_TIMEOUT, while new
// connections work.
func TestWireBlackHoleIsSeenByTheKernel(t *testing.T) {
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
		t.Errorf("client: %q, %v; want to time out", got, err)
	}
	if from, was := client.LocalAddr().(*net.TCPAddr).IP, client.RemoteAddr().(*net.TCPAddr).IP; from.Equal(was) {
		t.Errorf("both ends are %s", from)
	}
	client, server = dial()
	send(t, client, "new ones work")
	receive(t, server, "new ones work")
}

// A wire that is cut lets nothing through, and all of it after it is mended: TCP sends
// it again.
func TestWireCutAndMend(t *testing.T) {
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
	mustHearNothing(t, server)
	if err := w.Mend(); err != nil {
		t.Fatal(err)
	}
	receive(t, server, "late")
}
