package chaos

import (
	"encoding/binary"
	"sync"

	"github.com/job-publisher/reactor/internal/netfault"
)

// packetBreaker breaks a connection at a breakpoint: just before or just after the n-th packet of
// a kind. It parses the packets of all connections of a proxy, in one direction.
type packetBreaker struct {
	header func(head []byte) (kind byte, length int, ok bool)
	from   netfault.Direction // direction of the packets

	mu         sync.Mutex
	conns      map[int]*framing // guarded by mu, by connection
	breakpoint *breakpoint      // guarded by mu; nil: none is set
}

// breakpoint says at which packet a packetBreaker breaks the connection, and how.
type breakpoint struct {
	kind   byte
	nth    int  // 1: the next packet of this kind
	before bool // break before the packet, otherwise after it
	fault  netfault.Fault
}

// framing is the position in the packets of one stream.
type framing struct {
	head []byte // first bytes of a packet whose length is not known yet
	left int    // bytes until the end of the packet
	kind byte
}

// mqttPackets parses MQTT packets; a kind is a control packet type.
func mqttPackets(from netfault.Direction) *packetBreaker {
	return newPacketBreaker(from, func(head []byte) (byte, int, bool) {
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

// postgresAnswers parses the messages of a PostgreSQL server; a kind is a message type.
func postgresAnswers() *packetBreaker {
	return newPacketBreaker(netfault.ToClient, func(head []byte) (byte, int, bool) {
		if len(head) < 5 {
			return 0, 0, false
		}
		return head[0], 1 + int(binary.BigEndian.Uint32(head[1:])), true
	})
}

func newPacketBreaker(from netfault.Direction, header func([]byte) (byte, int, bool)) *packetBreaker {
	return &packetBreaker{header: header, from: from, conns: map[int]*framing{}}
}

// set sets the breakpoint. It replaces one that was not reached yet.
func (b *packetBreaker) set(bp breakpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.breakpoint = &bp
}

// clear removes the breakpoint.
func (b *packetBreaker) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.breakpoint = nil
}

// hook is a netfault.Hook.
func (b *packetBreaker) hook(c netfault.Chunk) netfault.Verdict {
	if c.Direction != b.from {
		return netfault.Verdict{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.conns[c.Conn]
	if f == nil {
		f = &framing{}
		b.conns[c.Conn] = f
	}
	for at := 0; at < len(c.Data); {
		if f.left == 0 { // in a header: parse it byte by byte
			f.head = append(f.head, c.Data[at])
			kind, length, ok := b.header(f.head)
			at++
			if !ok {
				continue
			}
			f.kind, f.left = kind, length-len(f.head)
			begin := at - len(f.head)
			f.head = f.head[:0]
			if b.reached(f.kind, true) {
				return b.breakAt(max(begin, 0))
			}
		}
		n := min(f.left, len(c.Data)-at)
		f.left -= n
		at += n
		if f.left == 0 && b.reached(f.kind, false) {
			return b.breakAt(at)
		}
	}
	return netfault.Verdict{}
}

// reached counts a packet at its begin or its end, and reports whether it is the breakpoint's.
func (b *packetBreaker) reached(kind byte, begins bool) bool {
	if b.breakpoint == nil || b.breakpoint.kind != kind || b.breakpoint.before != begins {
		return false
	}
	b.breakpoint.nth--
	return b.breakpoint.nth <= 0
}

// breakAt removes the breakpoint and breaks the connection after a number of bytes of the chunk.
func (b *packetBreaker) breakAt(forward int) netfault.Verdict {
	fault := b.breakpoint.fault
	b.breakpoint = nil
	return netfault.Verdict{Forward: forward, Then: fault}
}
