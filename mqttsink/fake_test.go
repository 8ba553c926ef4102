package mqttsink

import (
	"bufio"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/eclipse/paho.golang/packets"
)

// fakeBroker answers each packet as a test wants, for behaviour that no real broker shows on
// demand.
type fakeBroker struct {
	url    string
	answer func(conn int, p *packets.ControlPacket) reply

	mu    sync.Mutex
	conns []net.Conn            // guarded by mu
	bye   []*packets.Disconnect // guarded by mu
}

// reply is what the broker sends, and whether it then closes the connection, or first closes
// another one.
type reply struct {
	packets  []byte
	closeNow bool
	hangUpOn int
}

// startFakeBroker starts a fakeBroker. conn counts its connections from 1. It accepts a CONNECT for
// which answer returns no packets.
func startFakeBroker(t *testing.T, answer func(conn int, p *packets.ControlPacket) reply) *fakeBroker {
	t.Helper()
	listener := listen(t)
	b := &fakeBroker{url: "mqtt://" + listener.Addr().String(), answer: answer}
	accept := connack(t, 0, nil)
	var served sync.WaitGroup
	served.Go(func() {
		for n := 1; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns = append(b.conns, conn)
			b.mu.Unlock()
			served.Go(func() { b.serve(n, conn, accept) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		b.mu.Lock()
		for _, c := range b.conns {
			c.Close()
		}
		b.mu.Unlock()
		served.Wait()
	})
	return b
}

func (b *fakeBroker) serve(n int, conn net.Conn, accept []byte) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		p, err := packets.ReadPacket(reader)
		if err != nil {
			return
		}
		if d, ok := p.Content.(*packets.Disconnect); ok {
			b.mu.Lock()
			b.bye = append(b.bye, d)
			b.mu.Unlock()
		}
		r := b.answer(n, p)
		if r.hangUpOn > 0 {
			b.hangUpOn(r.hangUpOn)
		}
		switch {
		case r.packets != nil || r.closeNow:
		case p.Type == packets.CONNECT:
			r.packets = accept
		case p.Type == packets.PINGREQ:
			r.packets = []byte{packets.PINGRESP << 4, 0}
		}
		if _, err := conn.Write(r.packets); err != nil || r.closeNow {
			return
		}
	}
}

// hangUpOn closes a connection from outside of its goroutine.
func (b *fakeBroker) hangUpOn(conn int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns[conn-1].Close()
}

// goodbyes returns the DISCONNECTs that were received.
func (b *fakeBroker) goodbyes() []*packets.Disconnect {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.bye)
}

func encode(p packets.Packet) []byte {
	var b strings.Builder
	_, _ = p.WriteTo(&b)
	return []byte(b.String())
}

// suback answers a SUBSCRIBE with a code for each filter.
func suback(p *packets.ControlPacket, codes ...byte) reply {
	return reply{packets: encode(&packets.Suback{PacketID: p.PacketID(), Properties: &packets.Properties{}, Reasons: codes})}
}

func unsuback(p *packets.ControlPacket, codes ...byte) reply {
	return reply{packets: encode(&packets.Unsuback{PacketID: p.PacketID(), Properties: &packets.Properties{}, Reasons: codes})}
}

// subscriptions is a broker that keeps subscriptions, for all its clients together.
type subscriptions struct {
	mu      sync.Mutex
	filters map[string]bool
}

func (s *subscriptions) answer(p *packets.ControlPacket) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.filters == nil {
		s.filters = make(map[string]bool)
	}
	var codes []byte
	switch p := p.Content.(type) {
	case *packets.Subscribe:
		for _, o := range p.Subscriptions {
			s.filters[o.Topic] = true
			codes = append(codes, 0)
		}
	case *packets.Unsubscribe:
		for _, f := range p.Topics {
			code := byte(codeNoSubscription)
			if s.filters[f] {
				code = codeSuccess
			}
			delete(s.filters, f)
			codes = append(codes, code)
		}
	}
	switch p.Type {
	case packets.SUBSCRIBE:
		return suback(p, codes...)
	case packets.UNSUBSCRIBE:
		return unsuback(p, codes...)
	}
	return reply{}
}

func (s *subscriptions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.filters)
}

// send sends packets over a connection from outside of its goroutine.
func (b *fakeBroker) send(conn int, packets []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = b.conns[conn-1].Write(packets)
}
