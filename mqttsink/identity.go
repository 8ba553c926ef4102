package mqttsink

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

const (
	// probeExpiry is when the broker may discard the session of a probe that was killed.
	probeExpiry = time.Minute
	// takeovers is how many times in a row a broker has to close the first probe without a
	// DISCONNECT when the second one connects. Some brokers do not report a take-over (mosquitto
	// before 2.1), and a single connection may have ended for any reason.
	takeovers = 3
)

// errSharedIdentity: a client id that nobody has used has a session.
var errSharedIdentity = errors.New("shared identity")

// newProbeID returns a client id that nobody else has.
func newProbeID() string { return driver.ProbePrefix + rand.Text() }

// probe is a connection that finds out how the broker identifies clients.
type probe struct {
	conn    net.Conn
	reader  *bufio.Reader
	present bool
}

// checkIdentity is Sink.CheckIdentity at this broker. Two probes with random client ids are connected at once, so
// the result does not depend on what a lane has requested: at QoS 0 a lane wants no session to be
// kept, and mosquitto then reports that there was none, although it has taken over the lane's
// connection.
func (b *broker) checkIdentity(ctx context.Context, qos byte) error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.ConnectTimeout, errConnectTimeout)
	defer cancel()
	for range takeovers {
		err := b.connectTwice(ctx, qos)
		var refused *driver.ConnectRefusedError
		switch {
		case errors.Is(err, errSharedIdentity):
			return b.sharedIdentity()
		case errors.As(err, &refused) && refusesID(refused.Code):
			// It accepts our lanes and not this client id, so it does look at client ids.
			b.cfg.Logger.Debug("the broker lets nobody in with a client id it does not know", "broker", b.address, "err", err)
			return nil
		case !errors.Is(err, errClosedByBroker):
			return err
		}
	}
	return b.sharedIdentity()
}

// sharedIdentity says what to change in the broker.
func (b *broker) sharedIdentity() error {
	return &driver.ConnectRefusedError{
		Broker: b.address, Code: packets.ConnackInvalidClientID,
		Reason: "it tells clients apart by something else than their client id, so all lanes would share one session and lose messages: " +
			"switch that off (mosquitto: use_username_as_clientid; EMQX: mqtt.use_username_as_clientid, mqtt.peer_cert_as_clientid, mqtt.clientid_override)",
	}
}

func refusesID(code byte) bool {
	switch code {
	case packets.ConnackInvalidClientID, packets.ConnackBadUsernameOrPassword, packets.ConnackNotAuthorized:
		return true
	}
	return false
}

// connectTwice returns errSharedIdentity if it is certain that clients share an identity, and
// errClosedByBroker if it is possible.
func (b *broker) connectTwice(ctx context.Context, qos byte) error {
	first, err := b.openProbe(ctx, qos)
	if err != nil {
		return err
	}
	defer closeNow(first.conn)
	stop := context.AfterFunc(ctx, func() { closeNow(first.conn) })
	defer stop()
	if first.present {
		first.leave(b.laneExpiry(qos)) // the session is a lane's, so restore its expiry
		return errSharedIdentity
	}
	defer first.leave(0)
	second, err := b.openProbe(ctx, qos)
	if err != nil {
		return err
	}
	defer closeNow(second.conn)
	defer second.leave(0)
	if second.present {
		return errSharedIdentity
	}
	// A broker that keeps no sessions reports no session, and ends the first connection.
	err = first.ping()
	if ctx.Err() != nil {
		return b.explainTimeout(ctx)
	}
	return err
}

func (b *broker) openProbe(ctx context.Context, qos byte) (*probe, error) {
	opts := driver.ConnectOptions{ClientID: newProbeID(), QoS: qos}
	connect := b.connectPacket(opts)
	expiry := uint32(probeExpiry / time.Second)
	connect.Properties.SessionExpiryInterval = &expiry
	conn, reader, connack, err := b.open(ctx, connect)
	if err != nil {
		return nil, err
	}
	if _, err := b.negotiate(connack, opts); err != nil {
		closeNow(conn)
		return nil, err
	}
	return &probe{conn: conn, reader: reader, present: connack.SessionPresent}, nil
}

// laneExpiry is the Session Expiry Interval that a lane requests.
func (b *broker) laneExpiry(qos byte) time.Duration {
	if qos == 0 {
		return 0
	}
	return b.cfg.SessionExpiry
}

// ping returns nil if the connection is still the session's.
func (p *probe) ping() error {
	if _, err := p.conn.Write(pingreq); err != nil {
		return errClosedByBroker
	}
	for {
		packet, err := nextPacket(p.reader)
		if err != nil {
			return errClosedByBroker
		}
		switch packet[0] >> 4 {
		case packets.PINGRESP:
			return nil
		case packets.DISCONNECT:
			d, err := decodeDisconnect(packet)
			if err != nil {
				return err
			}
			if d.ReasonCode == packets.DisconnectSessionTakenOver {
				return errSharedIdentity
			}
			return fmt.Errorf("checking the broker: %w", disconnected(d))
		}
	}
}

// leave sends DISCONNECT with a session expiry. It does not matter whether it arrives: the session
// of a probe expires soon.
func (p *probe) leave(expiry time.Duration) {
	packet := append([]byte(nil), disconnectForGood[:5]...)
	_, _ = p.conn.Write(binary.BigEndian.AppendUint32(packet, uint32(expiry/time.Second)))
}
