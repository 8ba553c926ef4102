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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// limit is the timeout of every wait in a test. No wait should reach it.
const limit = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// newPair returns a proxy and a function that opens a connection through it. The function
// returns the client's end and the server's end.
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
		// The server accepts a connection before the proxy counts it.
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

// readToEnd returns what still arrives, and the error at the end of the stream.
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

func TestProxyCutSendsFin(t *testing.T) {
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
		t.Errorf("client: %q, %v; want end of file only", got, err)
	}
	if got, err := readToEnd(server); err != nil || got != "on its way" {
		t.Errorf("server: %q, %v; want the sent bytes, then end of file", got, err)
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

func TestProxyResetSendsRst(t *testing.T) {
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
		t.Fatal(err) // without this wait the bytes may arrive before they are counted
	}
	proxy.Stall(netfault.ToServer)
	send(t, client, "held")
	// The other direction works: the answer was sent after the stalled bytes.
	send(t, server, "answer")
	receive(t, client, "answer")
	if got := proxy.Forwarded(netfault.ToServer); got != int64(len("before")) {
		t.Errorf("%d bytes were forwarded, want only those before the stall", got)
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
	client.CloseWrite() // this is dropped too
	send(t, server, "b")
	receive(t, client, "b")
	proxy.Cut()
	if got, err := readToEnd(server); err != nil || got != "" {
		t.Errorf("server: %q, %v; want end of file only", got, err)
	}
}

// Open connections become dead in both directions, and neither side is informed. New
// connections work.
func TestProxyBlackHole(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	client, server := dial()
	send(t, client, "before")
	receive(t, server, "before")
	if n := proxy.BlackHole(); n != 1 || proxy.Dead() != 1 {
		t.Fatalf("BlackHole returned %d, Dead %d, want 1", n, proxy.Dead())
	}
	ctx := testContext(t)
	send(t, client, "question")
	send(t, server, "news")
	if err := errors.Join(
		proxy.WaitDiscarded(ctx, netfault.ToServer, int64(len("question"))),
		proxy.WaitDiscarded(ctx, netfault.ToClient, int64(len("news"))),
	); err != nil {
		t.Fatal(err)
	}
	mustReceiveNothing(t, client)
	mustReceiveNothing(t, server)

	client2, server2 := dial()
	send(t, client2, "new ones work")
	receive(t, server2, "new ones work")

	// The end of one side is not passed on to the other, neither by FIN nor by RST.
	_ = client.SetLinger(0)
	client.Close()
	mustReceiveNothing(t, server)
	send(t, server, "question") // the answer is not even a reset
	if err := proxy.WaitDiscarded(ctx, netfault.ToClient, int64(len("news"+"question"))); err != nil {
		t.Fatal(err)
	}
	mustReceiveNothing(t, server)
	proxy.ResetServerSide()
	if _, err := readToEnd(server); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("server: %v, want a reset", err)
	}
	send(t, server2, "and go on")
	receive(t, client2, "and go on")
	if err := proxy.WaitOpen(ctx, 1); err != nil { // both sides have closed, so the connection ends
		t.Error(err)
	}
}

// When the server's side of a black hole is reset, the client is not informed.
func TestProxyBlackHoleAfterTheServerEnds(t *testing.T) {
	t.Parallel()
	proxy, dial := newPair(t)
	client, server := dial()
	proxy.BlackHole()
	proxy.ResetServerSide()
	if _, err := readToEnd(server); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("server: %v, want a reset", err)
	}
	send(t, client, "hello?")
	if err := proxy.WaitDiscarded(testContext(t), netfault.ToServer, int64(len("hello?"))); err != nil {
		t.Fatal(err)
	}
	mustReceiveNothing(t, client)
	proxy.Reset()
	if _, err := readToEnd(client); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client: %v, want a reset", err)
	}
}

// mustReceiveNothing checks that nothing has arrived so far, not even end of file.
func mustReceiveNothing(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if n, err := c.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("received %q, %v; want nothing", b[:n], err)
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
		t.Errorf("server: %q, %v; want 456, then end of file", got, err)
	}
	client, server = dial() // the limit is used up
	send(t, client, "0123456789")
	receive(t, server, "0123456789")
}

// A hook cuts right after the third acknowledgement, also in the middle of a chunk.
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
		t.Errorf("client: %q, %v; want AzA, then end of file", got, err)
	}
}

// TestProxyObservesWhatIsLost: for every fault, ObserveLost reports the bytes that a side has
// sent and that the other side does not receive.
func TestProxyObservesWhatIsLost(t *testing.T) {
	for name, fault := range map[string]func(p *netfault.Proxy, server *net.TCPConn){
		"reset": func(p *netfault.Proxy, _ *net.TCPConn) { p.Reset() },
		"cut":   func(p *netfault.Proxy, _ *net.TCPConn) { p.Cut() },
		"the server has closed": func(p *netfault.Proxy, server *net.TCPConn) {
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
				t.Fatalf("%d lost bytes were reported, want 100,000", len(lost))
			}
			if got := string(lost); got != strings.Repeat("lost ", 20_000) {
				t.Error("the reported bytes are not those that were sent")
			}
		})
	}
}

// TestProxyObservesDuringReset: a client sends byte after byte until its connection is
// at an end. The hook or ObserveLost gets each one that it could send.
func TestProxyObservesDuringReset(t *testing.T) {
	t.Parallel()
	for range 20 {
		proxy, dial := newPair(t)
		var seen atomic.Int64
		count := func(c netfault.Chunk) {
			if c.Direction == netfault.ToServer {
				seen.Add(int64(len(c.Data)))
			}
		}
		proxy.SetHook(func(c netfault.Chunk) netfault.Verdict {
			count(c)
			return netfault.Verdict{}
		})
		proxy.ObserveLost(count)
		client, server := dial()
		for _, side := range []net.Conn{client, server} {
			go func() {
				_, _ = io.Copy(io.Discard, side)
				_ = side.Close()
			}()
		}
		sent := int64(0)
		for ; ; sent++ {
			if _, err := client.Write([]byte{'x'}); err != nil {
				break
			}
			if sent == 100 {
				go proxy.Reset()
			}
		}
		if err := proxy.WaitClosed(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if got := seen.Load(); got != sent {
			t.Fatalf("%d bytes were sent, and %d seen", sent, got)
		}
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
	if err == nil { // otherwise the reset came before the end of the handshake
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(limit))
		_, err = readToEnd(c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}
