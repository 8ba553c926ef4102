// Package embedded replaces servers that are not installed: a PostgreSQL that is downloaded,
// and a broker inside our own process.
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

// Broker is a broker inside our own process, for a demonstration where
// Mosquitto is not installed.
//
// It is no judge of exactly-once: it answers a repeated QoS 2 PUBLISH with reason
// 0x91 instead of a PUBREC, and drops what a slow subscriber cannot take. It grants
// subscribers QoS 0, whatever they ask for: with more, mochi v2.7.9 can hang for ever
// (a subscriber's acknowledgement takes a read lock twice, in Inflight.NextImmediate,
// and a publication that comes in between waits for the write lock).
type Broker struct {
	server *mqtt.Server
	url    string
	close  sync.Once
	err    error // of the close
}

// StartBroker starts a broker on 127.0.0.1; port 0 is a free one.
// A nil logger means none.
func StartBroker(port int, log *slog.Logger) (*Broker, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	limits := mqtt.NewDefaultServerCapabilities()
	limits.MaximumInflight = math.MaxUint16
	limits.MaximumClientWritesPending = 1 << 16
	server := mqtt.New(&mqtt.Options{Capabilities: limits, Logger: log})
	if err := server.AddHook(new(openHouse), nil); err != nil {
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

// openHouse lets every client do everything; without such a hook the library
// lets nobody in. Its own one would bring a YAML parser along.
type openHouse struct{ mqtt.HookBase }

func (*openHouse) ID() string { return "open-house" }

func (*openHouse) Provides(hook byte) bool {
	return hook == mqtt.OnConnectAuthenticate || hook == mqtt.OnACLCheck || hook == mqtt.OnSubscribe
}

func (*openHouse) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

func (*openHouse) OnACLCheck(*mqtt.Client, string, bool) bool { return true }

func (*openHouse) OnSubscribe(_ *mqtt.Client, p packets.Packet) packets.Packet {
	for i := range p.Filters {
		p.Filters[i].Qos = 0
	}
	return p
}
