package reactor_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/netfault"
)

// wiretap reads the packets that pass through a proxy in front of the broker. What a subscriber
// receives does not show what the broker was sent: a broker that is killed also loses its
// queues.
type wiretap struct {
	mu      sync.Mutex
	changed chan struct{}
	partial map[tapEnd][]byte // the beginning of a packet
	clients map[int]string    // by connection
	packets []tapped
	cut     func(tapped) bool // cuts the connection instead of passing a packet on
}

// cutAt has connections cut at certain packets from now on.
func (w *wiretap) cutAt(cut func(tapped) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

type tapEnd struct {
	conn      int
	direction netfault.Direction
}

// tapped is one packet.
type tapped struct {
	conn      int
	direction netfault.Direction
	client    string // the client id of the connection's CONNECT
	kind      byte   // as in packets.PUBLISH
	id        uint16 // of a PUBLISH and its answers
	dup       bool
	job       int64 // of a PUBLISH
	at        time.Time
}

// tap begins to listen. It sets the proxy's hook.
func tap(p *netfault.Proxy) *wiretap {
	w := &wiretap{changed: make(chan struct{}), partial: map[tapEnd][]byte{}, clients: map[int]string{}}
	p.SetHook(func(c netfault.Chunk) netfault.Verdict {
		if w.take(c) {
			return netfault.Verdict{Then: netfault.FaultCut}
		}
		return netfault.Verdict{}
	})
	return w
}

// take reports whether the connection is to be cut before the chunk is passed on.
func (w *wiretap) take(c netfault.Chunk) (cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := tapEnd{c.Conn, c.Direction}
	data := append(w.partial[end], c.Data...)
	for {
		size, ok := packetSize(data)
		if !ok || len(data) < size {
			break
		}
		t := w.note(end, data[:size])
		cut = cut || w.cut != nil && w.cut(t)
		data = data[size:]
	}
	w.partial[end] = bytes.Clone(data)
	close(w.changed)
	w.changed = make(chan struct{})
	return cut
}

// packetSize is the length of the packet that data begins with, its header included.
func packetSize(data []byte) (int, bool) {
	if len(data) < 2 {
		return 0, false
	}
	body, n := binary.Uvarint(data[1:]) // MQTT's variable byte integer is one
	return 1 + n + int(body), n > 0
}

func (w *wiretap) note(end tapEnd, packet []byte) tapped {
	t := tapped{at: time.Now(), conn: end.conn, direction: end.direction, kind: packet[0] >> 4}
	switch t.kind {
	case packets.PUBREC, packets.PUBREL, packets.PUBCOMP, packets.PUBACK:
		t.id = binary.BigEndian.Uint16(packet[2:])
	case packets.PUBLISH, packets.CONNECT:
		read, err := packets.ReadPacket(bytes.NewReader(packet))
		if err != nil {
			break
		}
		switch content := read.Content.(type) {
		case *packets.Connect:
			w.clients[end.conn] = content.ClientID
		case *packets.Publish:
			t.id, t.dup = content.PacketID, content.Duplicate
			for _, p := range content.Properties.User {
				if p.Key == "job-id" {
					t.job, _ = strconv.ParseInt(p.Value, 10, 64)
				}
			}
		}
	}
	t.client = w.clients[end.conn]
	w.packets = append(w.packets, t)
	return t
}

// count is how many packets are of a kind, of those that a filter lets pass.
func (w *wiretap) count(kind byte, filter ...func(tapped) bool) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.countLocked(kind, filter)
}

func (w *wiretap) countLocked(kind byte, filters []func(tapped) bool) int {
	n := 0
next:
	for _, p := range w.packets {
		if p.kind != kind {
			continue
		}
		for _, f := range filters {
			if !f(p) {
				continue next
			}
		}
		n++
	}
	return n
}

// await blocks until there have been n packets of a kind.
func (w *wiretap) await(ctx context.Context, t *testing.T, kind byte, n int, filter ...func(tapped) bool) {
	t.Helper()
	for {
		w.mu.Lock()
		got, changed := w.countLocked(kind, filter), w.changed
		w.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("waiting for %d packets of type %d: %v, there were %d", n, kind, ctx.Err(), got)
		}
	}
}

// all returns the packets that have passed so far.
func (w *wiretap) all() []tapped {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.packets)
}

func isDup(p tapped) bool { return p.dup }

// ofLane selects the packets of lanes, without those of probes.
func ofLane(p tapped) bool { return !strings.Contains(p.client, "probe") }
