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

// ErrNoWire: this process may not make networks.
var ErrNoWire = errors.New("a network of one's own needs root and the program ip (Debian, Ubuntu: apt-get install iproute2)")

const (
	wireServer  = "10.77.0.1" // in both namespaces of a Wire, which nobody else can see
	wireNetwork = "10.77.0.0/24"
	wireSources = 250 // addresses of the client's end, from 10.77.0.2 on
)

// Wire is a network whose packets really vanish: two network namespaces of its own, joined
// by a pair of virtual Ethernet devices.
//
//	 client's namespace                 server's namespace     our network
//	┌────────────────────────┐  veth  ┌───────────────────┐
//	│ sockets of Do and Enter├────────┤ Proxy's listener  ├──────► the server
//	│ 10.77.0.2, .3, …       │        │ 10.77.0.1         │
//	└────────────────────────┘        └───────────────────┘
//
// The kernel of the client's end gets no acknowledgement for what has vanished, so that
// its retransmissions, keepalives and TCP_USER_TIMEOUT do what they do in the world. That
// is what a Proxy alone, in user space, cannot show.
//
// Packets are dropped by routing rules of the server's namespace, since these need no
// kernel module. Nothing outside of the two namespaces is touched, and they go with the
// last socket and process in them.
type Wire struct {
	client, server *os.File // the namespaces

	mu     sync.Mutex
	source int // guarded by mu; the last part of the address that new connections come from
	cut    bool
}

// NewWire makes a network, or fails with ErrNoWire.
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
	// One namespace hands the other its end of the pair, by our own descriptor.
	theirs := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), w.server.Fd())
	return errors.Join(
		ip(w.client, "link set lo up", "link add wire type veth peer name wire netns "+theirs),
		ip(w.client, addresses...), ip(w.client, "link set wire up"),
		ip(w.server, "link set lo up", "addr add "+wireServer+"/24 dev wire", "link set wire up",
			// The table of local addresses comes before every other rule: move it, so
			// that ours come first.
			"rule add pref 1000 lookup local", "rule del pref 0"),
		w.comeFrom(2),
	)
}

// Proxy returns a proxy to a server in our network, given as host:port or as a URL with
// them, whose clients reach it over the wire.
func (w *Wire) Proxy(server string) (*Proxy, error) {
	return newProxy(server, func(addr string) (l net.Listener, err error) {
		if addr == "" {
			addr = wireServer + ":0"
		}
		err = within(w.server, func() error { l, err = net.Listen("tcp4", addr); return err })
		return l, err
	})
}

// Do calls f on a thread at the client's end: the sockets that it opens itself, not by
// goroutines that it starts, belong there. net.Dial to an IP address does so.
func (w *Wire) Do(f func() error) error { return within(w.client, f) }

// Enter moves the calling thread to the client's end, for good: for
// stack.ProcessSpec.Enter.
func (w *Wire) Enter() error { return enter(w.client) }

// BlackHole makes packets of the connections of this moment vanish. New ones work, from
// another address.
func (w *Wire) BlackHole() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.source+1 >= 2+wireSources {
		return errors.New("wire: all its addresses are black holes")
	}
	dead := sourceAddress(w.source)
	w.source++
	return errors.Join(w.comeFrom(w.source), ip(w.server,
		fmt.Sprintf("rule add pref %d from %s blackhole", 10+w.source, dead),
		fmt.Sprintf("rule add pref %d to %s blackhole", 10+w.source, dead)))
}

// Cut makes all packets vanish, of new connections as well, until Mend.
func (w *Wire) Cut() error { return w.cutting(true, "add") }

// Mend ends Cut. What BlackHole has made stays.
func (w *Wire) Mend() error { return w.cutting(false, "del") }

func (w *Wire) cutting(cut bool, verb string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut == cut {
		return nil
	}
	w.cut = cut
	return ip(w.server, "rule "+verb+" pref 1 from "+wireNetwork+" blackhole", "rule "+verb+" pref 2 to "+wireNetwork+" blackhole")
}

// Close lets go of the namespaces.
func (w *Wire) Close() {
	for _, f := range []*os.File{w.client, w.server} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// comeFrom chooses the address of new connections.
func (w *Wire) comeFrom(n int) error {
	return ip(w.client, fmt.Sprintf("route replace %s dev wire src %s", wireNetwork, sourceAddress(n)))
}

func sourceAddress(n int) string { return fmt.Sprint("10.77.0.", n) }

// newNamespace makes a network namespace that lives as long as somebody holds it: the
// file, a socket or a process.
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

// onOwnThread calls f on a thread that ends with it: nobody else must find itself in
// another network.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: so the thread ends with this goroutine
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
