package netfault

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNoWire is the error of NewWire if this process may not create network namespaces.
var ErrNoWire = errors.New("a network namespace needs root and the program ip (Debian, Ubuntu: apt-get install iproute2)")

const (
	wireServer  = "10.77.0.1" // visible only in the two namespaces of a Wire
	wireNetwork = "10.77.0.0/24"
	wireSources = 250 // addresses of the client's end, from 10.77.0.2 on
)

// Wire is a network that really drops packets. It consists of two network namespaces, joined
// by a pair of virtual Ethernet devices.
//
//	 client's namespace                 server's namespace     our network
//	┌────────────────────────┐  veth  ┌───────────────────┐
//	│ sockets of Do and Enter├────────┤ Proxy's listener  ├──────► the server
//	│ 10.77.0.2, .3, …       │        │ 10.77.0.1         │
//	└────────────────────────┘        └───────────────────┘
//
// The client's kernel gets no acknowledgement for dropped packets. So retransmissions,
// keepalives and TCP_USER_TIMEOUT work as in a real network. A Proxy alone, in user space,
// cannot test that.
//
// Routing rules of the server's namespace drop the packets, because they need no kernel
// module. Nothing outside the two namespaces is changed. The kernel removes a namespace when
// its last socket and process have ended.
type Wire struct {
	client, server *os.File // the namespaces

	mu     sync.Mutex
	source int  // guarded by mu; the last part of the source address of new connections
	cut    bool // guarded by mu
}

// NewWire creates a network. The error is ErrNoWire if this process may not do so.
func NewWire() (*Wire, error) {
	if _, err := exec.LookPath("ip"); os.Geteuid() != 0 || err != nil {
		return nil, ErrNoWire
	}
	w := &Wire{source: 2}
	var err error
	if w.client, err = newNamespace(); err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	if w.server, err = newNamespace(); err == nil {
		err = w.join()
	}
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("wire: %w", err)
	}
	return w, nil
}

func (w *Wire) join() error {
	addresses := make([]string, 0, wireSources)
	for n := 2; n < 2+wireSources; n++ {
		addresses = append(addresses, fmt.Sprintf("addr add %s/24 dev wire", sourceAddress(n)))
	}
	// The command in the client's namespace moves one end of the pair into the server's
	// namespace, which it finds through our file descriptor.
	theirs := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), w.server.Fd())
	return errors.Join(
		ip(w.client, "link set lo up", "link add wire type veth peer name wire netns "+theirs),
		ip(w.client, addresses...), ip(w.client, "link set wire up"),
		ip(w.server, "link set lo up", "addr add "+wireServer+"/24 dev wire", "link set wire up",
			// The rule for local addresses comes before all others. Move it, so that our
			// rules come first.
			"rule add pref 1000 lookup local", "rule del pref 0"),
		w.setSource(2),
	)
}

// Proxy returns a proxy to a server in our network. The server is host:port, or a URL that
// contains them. Clients reach the proxy over the Wire.
func (w *Wire) Proxy(server string) (*Proxy, error) {
	return newProxy(server, func(addr string) (l net.Listener, err error) {
		if addr == "" {
			addr = wireServer + ":0"
		}
		err = within(w.server, func() error { l, err = net.Listen("tcp4", addr); return err })
		return l, err
	})
}

// Do calls f on a thread in the client's namespace. Sockets that f opens on this thread
// belong to the namespace, but not those of goroutines that it starts. net.Dial to an IP
// address opens its socket on this thread.
func (w *Wire) Do(f func() error) error { return within(w.client, f) }

// Enter moves the calling thread into the client's namespace permanently. It is for
// stack.ProcessSpec.Enter.
func (w *Wire) Enter() error { return enter(w.client) }

// BlackHole drops the packets of all open connections. New connections work: they have
// another source address.
func (w *Wire) BlackHole() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.source+1 >= 2+wireSources {
		return errors.New("wire: no source address is left: all are black holes")
	}
	dead := sourceAddress(w.source)
	w.source++
	return errors.Join(w.setSource(w.source), ip(w.server,
		fmt.Sprintf("rule add pref %d from %s blackhole", 10+w.source, dead),
		fmt.Sprintf("rule add pref %d to %s blackhole", 10+w.source, dead)))
}

// Cut drops all packets, also of new connections, until Restore.
func (w *Wire) Cut() error { return w.setCut(true, "add") }

// Restore ends Cut. It does not end black holes.
func (w *Wire) Restore() error { return w.setCut(false, "del") }

func (w *Wire) setCut(cut bool, verb string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut == cut {
		return nil
	}
	w.cut = cut
	return ip(w.server, "rule "+verb+" pref 1 from "+wireNetwork+" blackhole", "rule "+verb+" pref 2 to "+wireNetwork+" blackhole")
}

// Close closes the namespaces.
func (w *Wire) Close() {
	for _, f := range []*os.File{w.client, w.server} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// setSource chooses the source address of new connections.
func (w *Wire) setSource(n int) error {
	return ip(w.client, fmt.Sprintf("route replace %s dev wire src %s", wireNetwork, sourceAddress(n)))
}

func sourceAddress(n int) string { return fmt.Sprint("10.77.0.", n) }

// newNamespace creates a network namespace. It exists as long as the file is open or a socket
// or process is in it.
func newNamespace() (f *os.File, err error) {
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		f, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	})
	return f, err
}

// within calls f on a thread of its own in a network namespace.
func within(namespace *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := enter(namespace); err != nil {
			return err
		}
		return f()
	})
}

func enter(namespace *os.File) error {
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// onOwnThread calls f on a thread that ends after it, so that no other goroutine runs in
// another namespace.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with this goroutine
		done <- f()
	}()
	return <-done
}

// ip runs commands of iproute2 in a namespace.
func ip(namespace *os.File, commands ...string) error {
	return within(namespace, func() error {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip: %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	})
}
