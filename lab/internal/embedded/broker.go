// Package embedded provides servers if none are installed: it downloads a PostgreSQL, and runs a
// broker in our own process.
package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strconv"
	"sync"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Broker is a broker in our own process, for a demonstration without Mosquitto.
//
// Do not verify exactly-once with it: it answers a repeated QoS 2 PUBLISH with reason 0x91
// instead of a PUBREC, and drops messages that a slow subscriber cannot receive in time. It
// grants subscribers only QoS 0, because with more mochi v2.7.9 can hang for ever: a
// subscriber's acknowledgement takes a read lock twice, in Inflight.NextImmediate, and in
// between a publication may wait for the write lock.
type Broker struct {
	server *mqtt.Server
	url    string
	close  sync.Once
	err    error // result of Close
}

// StartBroker starts a broker on 127.0.0.1. Port 0 means a free port. If log is nil, nothing is
// logged.
func StartBroker(port int, log *slog.Logger) (*Broker, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	limits := mqtt.NewDefaultServerCapabilities()
	limits.MaximumInflight = math.MaxUint16
	limits.MaximumClientWritesPending = 1 << 16
	server := mqtt.New(&mqtt.Options{Capabilities: limits, Logger: log})
	if err := server.AddHook(new(allowAll), nil); err != nil {
		return nil, fmt.Errorf("start in-process broker: %w", err)
	}
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))})
	if err := server.AddListener(tcp); err != nil {
		return nil, fmt.Errorf("start in-process broker: %w", err)
	}
	b := &Broker{server: server, url: "mqtt://" + tcp.Address()}
	if err := server.Serve(); err != nil { // returns at once
		return nil, errors.Join(fmt.Errorf("start in-process broker: %w", err), b.Close())
	}
	return b, nil
}

// URL is mqtt://127.0.0.1:port.
func (b *Broker) URL() string { return b.url }

// Close disconnects all clients and stops the broker.
func (b *Broker) Close() error {
	b.close.Do(func() { b.err = b.server.Close() })
	return b.err
}

// allowAll is a hook that allows every client everything. Without a hook the library refuses
// all clients. The library has such a hook too, but it imports a YAML parser.
type allowAll struct{ mqtt.HookBase }

func (*allowAll) ID() string { return "allow-all" }

func (*allowAll) Provides(hook byte) bool {
	return hook == mqtt.OnConnectAuthenticate || hook == mqtt.OnACLCheck || hook == mqtt.OnSubscribe
}

func (*allowAll) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

func (*allowAll) OnACLCheck(*mqtt.Client, string, bool) bool { return true }

func (*allowAll) OnSubscribe(_ *mqtt.Client, p packets.Packet) packets.Packet {
	for i := range p.Filters {
		p.Filters[i].Qos = 0
	}
	return p
}
