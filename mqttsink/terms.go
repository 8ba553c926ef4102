package mqttsink

import (
	"fmt"
	"strconv"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// terms combine what a CONNACK says with our own configuration.
type terms struct {
	limits        driver.Limits
	keepAlive     time.Duration
	sessionExpiry time.Duration // how long the broker keeps the session after the connection has ended
}

// negotiate derives the terms from a CONNACK, or returns why we cannot work under them.
func (b *broker) negotiate(connack *packets.Connack, opts driver.ConnectOptions) (terms, error) {
	p := connack.Properties
	maxQoS := byte(2)
	if p.MaximumQOS != nil {
		maxQoS = *p.MaximumQOS
	}
	if maxQoS < opts.QoS {
		return terms{}, &driver.ConnectRefusedError{
			Broker: b.address, Code: packets.ConnackQoSNotSupported,
			Reason: fmt.Sprintf("it takes QoS %d at most, and this delivery needs QoS %d: set reactor.Config.Delivery to %s",
				maxQoS, opts.QoS, deliveryFor(maxQoS)),
		}
	}
	if id := p.AssignedClientID; id != "" {
		return terms{}, &driver.ConnectRefusedError{
			Broker: b.address, Code: packets.ConnackInvalidClientID,
			Reason: "it replaces our client id by " + strconv.Quote(id) + ", and sessions could not be resumed: let it allow client ids of ours (reactor-…)",
		}
	}
	t := terms{
		limits: driver.Limits{
			InFlight: b.cfg.inFlight(opts.QoS), QoS: maxQoS, Broker: b.address,
			Present: connack.SessionPresent, Resumed: connack.SessionPresent && b.mayTrust(opts), OtherBrokers: len(b.choice.brokers) > 1,
		},
		keepAlive: time.Duration(b.cfg.keepAliveSeconds()) * time.Second,
	}
	if opts.Fresh && connack.SessionPresent {
		return terms{}, fmt.Errorf("broker %s: protocol error: it keeps a session that it was asked to discard", b.address)
	}
	if opts.QoS > 0 {
		t.sessionExpiry = b.cfg.SessionExpiry.Truncate(time.Second)
	}
	if n := p.ReceiveMaximum; n != nil {
		t.limits.InFlight = min(t.limits.InFlight, int(*n))
		if opts.QoS == 2 {
			// Use half. The next owner that resumes the session does not know which of the messages
			// in doubt the broker holds, and has to send it as many again.
			t.limits.InFlight = min(t.limits.InFlight, (int(*n)+1)/2)
		}
	}
	if n := p.MaximumPacketSize; n != nil {
		t.limits.PacketBytes = int(*n)
		if *n == 0 {
			return terms{}, fmt.Errorf("broker %s: protocol error: a Maximum Packet Size of 0 in CONNACK", b.address)
		}
	}
	t.limits.NoRetain = p.RetainAvailable != nil && *p.RetainAvailable == 0
	if t.limits.InFlight == 0 {
		return terms{}, fmt.Errorf("broker %s: protocol error: a Receive Maximum of 0 in CONNACK", b.address)
	}
	// Server Keep Alive is the longest pause that the broker allows, so we may send more often.
	// With 0 the broker sets no limit; we still want to know whether it is there.
	if n := p.ServerKeepAlive; n != nil && *n > 0 {
		t.keepAlive = min(t.keepAlive, time.Duration(*n)*time.Second)
	}
	if n := p.SessionExpiryInterval; n != nil {
		t.sessionExpiry = time.Duration(*n) * time.Second
		if *n == 0 && opts.QoS == 2 {
			return terms{}, &driver.ConnectRefusedError{
				Broker: b.address, Code: packets.ConnackImplementationSpecificError,
				Reason: "it keeps no session of a client that is away, and exactly-once needs that: let it keep sessions, or set reactor.Config.Delivery to AtLeastOnce",
			}
		}
	}
	return t, nil
}

// mayTrust reports whether a session that the broker has can be the lane's. Without a mark nothing
// tells it from an older one, which the lane had at this broker before it went to another.
func (b *broker) mayTrust(opts driver.ConnectOptions) bool {
	return len(b.choice.brokers) == 1 || opts.Mark != "" || opts.Broker == b.address
}

// deliveryFor names the reactor.Delivery with the strongest promise that a QoS below 2 can keep.
func deliveryFor(maxQoS byte) string {
	if maxQoS == 0 {
		return "AtMostOnce"
	}
	return "AtLeastOnce"
}

// connectPacket requests the session as it was left, so that the exchange of a packet identifier
// can be resumed, even by a lane that itself sends only QoS 0: its last owner may have used a
// higher QoS. The session is to outlive the connection where something may have to be resumed
// later. Fresh requests a new session instead.
func (b *broker) connectPacket(opts driver.ConnectOptions) *packets.Connect {
	ours := uint32(maxReceived)
	username, password := b.login.now(b.cfg.Logger)
	connect := &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: opts.ClientID, CleanStart: opts.Fresh,
		KeepAlive: b.cfg.keepAliveSeconds(), Properties: &packets.Properties{MaximumPacketSize: &ours},
		UsernameFlag: username != "", Username: username,
		PasswordFlag: password != "", Password: []byte(password),
	}
	if opts.QoS > 0 {
		expiry := uint32(b.cfg.SessionExpiry / time.Second)
		connect.Properties.SessionExpiryInterval = &expiry
	}
	return connect
}
