package netfault_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// limit bounds every wait of a test; none is meant to reach it.
const limit = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// newPair returns a proxy and a way to open connections through it: the client's
// end and the server's end.
func newPair(t *testing.T) (*netfault.Proxy, func() (client, server *net.TCPConn)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	proxy := testkit.NewProxy(t, l.Addr().String())
	dialed := 0
	return proxy, func() (*net.TCPConn, *net.TCPConn) {
		t.Helper()
		client, err := net.Dial("tcp", proxy.Addr())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		// The server hears of a connection a moment before the proxy counts it as its own.
		dialed++
		if err := proxy.WaitAccepted(testContext(t), dialed); err != nil {
			t.Fatal(err)
		}
		for _, c := range []net.Conn{client, server} {
			_ = c.SetDeadline(time.Now().Add(limit))
			t.Cleanup(func() { c.Close() })
		}
		return client.(*net.TCPConn), server.(*net.TCPConn)
	}
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("received %q, %v; want %q", got[:n], err, want)
	}
}

// readToEnd returns what still arrives and how the stream ends.
func readToEnd(c net.Conn) (string, error) {
	var b bytes.Buffer
	_, err := io.Copy(&b, c)
	return b.String(), err
}

func TestProxyForwardsManyBytesAndHalfCloses(t *testing.T) {
	t.Parallel()
	_, dial := newPair(t)
	client, server := dial()
	text := strings.Repeat("0123456789", 300_000)
	go func() {
		_, _ = io.WriteString(client, text)
		_ = client.CloseWrite()
	}()
	got, err := readToEnd(server)
	if err != nil || got != text {
		t.Fatalf("%d bytes of %d arrived, %v", len(got), len(text), err)
	}
	send(t, server, "still open")
	receive(t, client, "still open")
}

func TestProxyCutIsAFin(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	client, server := dial()
	send(t, client, "ping")
	receive(t, server, "ping")
	send(t, client, "on its way")
	if err := proxy.WaitForwarded(testContext(t), netfault.ToServer, 14); err != nil {
		t.Fatal(err)
	}
	proxy.Cut()
	if got, err := readToEnd(client); err != nil || got != "" {
		t.Errorf("client: %q, %v; want a plain end", got, err)
	}
	if got, err := readToEnd(server); err != nil || got != "on its way" {
		t.Errorf("server: %q, %v; want what was on its way, and a plain end", got, err)
	}
	client.Close()
	server.Close()
	if err := proxy.WaitClosed(testContext(t)); err != nil {
		t.Error(err)
	}
	// The next connection is not affected.
	client, server = dial()
	send(t, client, "again")
	receive(t, server, "again")
}

func TestProxyResetIsARst(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	client, server := dial()
	send(t, client, "ping")
	receive(t, server, "ping")
	proxy.Reset()
	for name, c := range map[string]net.Conn{"client": client, "server": server} {
		if _, err := readToEnd(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", name, err)
		}
	}
}

func TestProxyStallAndResume(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	client, server := dial()
	send(t, client, "before")
	receive(t, server, "before")
	if err := proxy.WaitForwarded(testContext(t), netfault.ToServer, int64(len("before"))); err != nil {
		t.Fatal(err) // it is counted a moment after it arrives
	}
	proxy.Stall(netfault.ToServer)
	send(t, client, "held")
	// The other direction works: its answer comes after what is held was sent.
	send(t, server, "answer")
	receive(t, client, "answer")
	if got := proxy.Forwarded(netfault.ToServer); got != int64(len("before")) {
		t.Errorf("%d bytes passed a stall", got)
	}
	proxy.Resume()
	receive(t, server, "held")
}

func TestProxyDrop(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	client, server := dial()
	send(t, client, "a")
	receive(t, server, "a")
	proxy.Drop(netfault.ToServer)
	send(t, client, "lost")
	client.CloseWrite() // and this is lost as well
	send(t, server, "b")
	receive(t, client, "b")
	proxy.Cut()
	if got, err := readToEnd(server); err != nil || got != "" {
		t.Errorf("server: %q, %v; want nothing but the cut", got, err)
	}
}

// What was there goes dead in both directions, without a word to either side; what comes
// after it works.
func TestProxyBlackHole(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	client, server := dial()
	send(t, client, "before")
	receive(t, server, "before")
	if n := proxy.BlackHole(); n != 1 || proxy.Dead() != 1 {
		t.Fatalf("%d swallowed, %d dead, want 1", n, proxy.Dead())
	}
	ctx := testContext(t)
	send(t, client, "question")
	send(t, server, "news")
	if err := errors.Join(
		proxy.WaitSwallowed(ctx, netfault.ToServer, int64(len("question"))),
		proxy.WaitSwallowed(ctx, netfault.ToClient, int64(len("news"))),
	); err != nil {
		t.Fatal(err)
	}
	mustHearNothing(t, client)
	mustHearNothing(t, server)

	client2, server2 := dial()
	send(t, client2, "new ones work")
	receive(t, server2, "new ones work")

	// The end of the one is no news to the other, by FIN or by RST.
	_ = client.SetLinger(0)
	client.Close()
	mustHearNothing(t, server)
	send(t, server, "still there?") // and not even a reset in answer
	if err := proxy.WaitSwallowed(ctx, netfault.ToClient, int64(len("news"+"still there?"))); err != nil {
		t.Fatal(err)
	}
	mustHearNothing(t, server)
	proxy.GiveUp()
	if _, err := readToEnd(server); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("server: %v, want a reset when it gives up", err)
	}
	send(t, server2, "and go on")
	receive(t, client2, "and go on")
	if err := proxy.WaitOpen(ctx, 1); err != nil { // both sides have ended, and so has it
		t.Error(err)
	}
}

// A server that gives a black hole up tells its client nothing.
func TestProxyBlackHoleOutlivesItsServer(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	client, server := dial()
	proxy.BlackHole()
	proxy.GiveUp()
	if _, err := readToEnd(server); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("server: %v, want a reset", err)
	}
	send(t, client, "hello?")
	if err := proxy.WaitSwallowed(testContext(t), netfault.ToServer, int64(len("hello?"))); err != nil {
		t.Fatal(err)
	}
	mustHearNothing(t, client)
	proxy.Reset()
	if _, err := readToEnd(client); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client: %v, want a reset", err)
	}
}

// mustHearNothing checks that nothing has arrived so far, not even an end.
func mustHearNothing(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if n, err := c.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it heard %q, %v; want nothing", b[:n], err)
	}
	_ = c.SetDeadline(time.Now().Add(limit))
}

func TestProxyRetarget(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	client, server := dial()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	proxy.Retarget(other.Addr().String())
	send(t, client, "old ones stay")
	receive(t, server, "old ones stay")
	moved, err := net.Dial("tcp", proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer moved.Close()
	there, err := other.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	_ = there.SetDeadline(time.Now().Add(limit))
	send(t, moved, "new ones move")
	receive(t, there, "new ones move")
}

func TestProxyRefuseAndAccept(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	client, server := dial()
	addr := proxy.Addr()
	proxy.Refuse()
	if c, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a connection while refusing: %v, %v", c, err)
	}
	send(t, client, "old ones live")
	receive(t, server, "old ones live")
	if err := proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	client, server = dial()
	send(t, client, "back")
	receive(t, server, "back")
	if proxy.Addr() != addr || proxy.Accepted() != 2 {
		t.Errorf("address %s → %s, %d connections", addr, proxy.Addr(), proxy.Accepted())
	}
}

func TestProxyCutAfterBytes(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	client, server := dial()
	proxy.CutAfterBytes(netfault.ToServer, 7)
	send(t, client, "0123")
	receive(t, server, "0123")
	send(t, client, "456789")
	if got, err := readToEnd(server); err != nil || got != "456" {
		t.Errorf("server: %q, %v; want 456 and an end", got, err)
	}
	client, server = dial() // the limit is used up
	send(t, client, "0123456789")
	receive(t, server, "0123456789")
}

// A hook that cuts right after the third acknowledgement, wherever chunks end.
func TestProxyHookCutsInsideAChunk(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	acks := 0
	proxy.SetHook(func(c netfault.Chunk) netfault.Verdict {
		if c.Direction != netfault.ToClient {
			return netfault.Verdict{}
		}
		for i, b := range c.Data {
			if b == 'A' {
				if acks++; acks == 3 {
					return netfault.Verdict{Forward: i + 1, Then: netfault.FaultCut}
				}
			}
		}
		return netfault.Verdict{}
	})
	client, server := dial()
	send(t, server, "xAy")
	receive(t, client, "xAy")
	send(t, server, "AzAlost")
	if got, err := readToEnd(client); err != nil || got != "AzA" {
		t.Errorf("client: %q, %v; want AzA and an end", got, err)
	}
}

// TestProxyObservesWhatIsLost: what a side has sent and the other will not get, whatever
// the fault.
func TestProxyObservesWhatIsLost(t *testing.T) {
	for name, fault := range map[string]func(p *netfault.Proxy, server *net.TCPConn){
		"reset": func(p *netfault.Proxy, _ *net.TCPConn) { p.Reset() },
		"cut":   func(p *netfault.Proxy, _ *net.TCPConn) { p.Cut() },
		"the server is gone": func(p *netfault.Proxy, server *net.TCPConn) {
			_ = server.SetLinger(0)
			server.Close()
		},
		"black hole": func(p *netfault.Proxy, _ *net.TCPConn) { p.BlackHole() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy, dial := newPair(t)
			var mu sync.Mutex
			var lost []byte
			all := make(chan struct{})
			proxy.ObserveLost(func(c netfault.Chunk) {
				mu.Lock()
				defer mu.Unlock()
				if c.Conn != 1 || c.Direction != netfault.ToServer {
					t.Errorf("connection %d, %v", c.Conn, c.Direction)
				}
				if lost = append(lost, c.Data...); len(lost) == 100_000 {
					close(all)
				}
			})
			client, server := dial()
			send(t, client, "passed")
			receive(t, server, "passed")
			proxy.Stall(netfault.ToServer)
			send(t, client, strings.Repeat("lost ", 20_000)) // more than a chunk
			fault(proxy, server)
			client.CloseWrite()
			select {
			case <-all:
			case <-testContext(t).Done():
				t.Fatalf("%d bytes were seen", len(lost))
			}
			if got := string(lost); got != strings.Repeat("lost ", 20_000) {
				t.Error("not what was sent, or not in its order")
			}
		})
	}
}

func TestProxyWithoutServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := testkit.NewProxy(t, "mqtt://user:pass@"+l.Addr().String())
	l.Close()
	if got, want := proxy.Through("mqtt://user:pass@host:1/x"), "mqtt://user:pass@"+proxy.Addr()+"/x"; got != want {
		t.Errorf("Through: %s, want %s", got, want)
	}
	c, err := net.Dial("tcp", proxy.Addr())
	if err == nil { // else the reset was faster than the end of the handshake
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(limit))
		_, err = readToEnd(c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}
