package chaos

import (
	"encoding/binary"
	"sync"

	"github.com/job-publisher/reactor/internal/netfault"
)

// tripwire breaks a connection at a chosen packet: just before or just after the n-th of
// a kind has passed. It follows the packets of all of a proxy's connections.
type tripwire struct {
	header func(head []byte) (kind byte, length int, ok bool)
	from   netfault.Direction // whose packets are followed

	mu    sync.Mutex
	conns map[int]*framing // guarded by mu, by connection
	armed *trap            // guarded by mu
}

// trap is what a tripwire waits for.
type trap struct {
	kind   byte
	nth    int  // 1: the next one
	before bool // break before it passes
	fault  netfault.Fault
}

// framing follows the packets of one stream.
type framing struct {
	head []byte // of a packet whose length is not known yet
	left int    // bytes until the packet ends
	kind byte
}

// mqttPackets follows an MQTT stream; its kinds are the control packet types.
func mqttPackets(from netfault.Direction) *tripwire {
	return newTripwire(from, func(head []byte) (byte, int, bool) {
		if len(head) < 2 {
			return 0, 0, false
		}
		length, n := binary.Uvarint(head[1:])
		if n <= 0 {
			return 0, 0, false
		}
		return head[0] >> 4, 1 + n + int(length), true
	})
}

// postgresAnswers follows what a PostgreSQL server sends; its kinds are the message
// types.
func postgresAnswers() *tripwire {
	return newTripwire(netfault.ToClient, func(head []byte) (byte, int, bool) {
		if len(head) < 5 {
			return 0, 0, false
		}
		return head[0], 1 + int(binary.BigEndian.Uint32(head[1:])), true
	})
}

func newTripwire(from netfault.Direction, header func([]byte) (byte, int, bool)) *tripwire {
	return &tripwire{header: header, from: from, conns: map[int]*framing{}}
}

// arm sets a trap; it replaces one that nothing has run into.
func (t *tripwire) arm(trap trap) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.armed = &trap
}

func (t *tripwire) disarm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.armed = nil
}

// hook is a netfault.Hook.
func (t *tripwire) hook(c netfault.Chunk) netfault.Verdict {
	if c.Direction != t.from {
		return netfault.Verdict{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.conns[c.Conn]
	if f == nil {
		f = &framing{}
		t.conns[c.Conn] = f
	}
	for at := 0; at < len(c.Data); {
		if f.left == 0 { // in a header, a byte at a time
			f.head = append(f.head, c.Data[at])
			kind, length, ok := t.header(f.head)
			at++
			if !ok {
				continue
			}
			f.kind, f.left = kind, length-len(f.head)
			begin := at - len(f.head)
			f.head = f.head[:0]
			if t.tripped(f.kind, true) {
				return t.spring(max(begin, 0))
			}
		}
		n := min(f.left, len(c.Data)-at)
		f.left -= n
		at += n
		if f.left == 0 && t.tripped(f.kind, false) {
			return t.spring(at)
		}
	}
	return netfault.Verdict{}
}

// tripped counts a packet of which the begin or the end passes.
func (t *tripwire) tripped(kind byte, begins bool) bool {
	if t.armed == nil || t.armed.kind != kind || t.armed.before != begins {
		return false
	}
	t.armed.nth--
	return t.armed.nth <= 0
}

func (t *tripwire) spring(forward int) netfault.Verdict {
	fault := t.armed.fault
	t.armed = nil
	return netfault.Verdict{Forward: forward, Then: fault}
}
