package mqttsink

import (
	"bufio"
	"context"
	"errors"
	"net"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// openOldBroker finds out whether a broker closes the connection because it does not know MQTT 5,
// by connecting with MQTT 3.1.1. If that is answered, it tries MQTT 5 once more, because the broker
// may just have started in between: a connection that succeeds is returned. why is the error of the
// first attempt.
func (b *broker) openOldBroker(ctx context.Context, connect *packets.Connect, why error) (net.Conn, *bufio.Reader, *packets.Connack, error) {
	if !b.speaksMQTT311(ctx) {
		return nil, nil, nil, why
	}
	conn, reader, connack, err := b.open(ctx, connect)
	if errors.Is(err, errNoAnswer) {
		err = &driver.ConnectRefusedError{
			Broker: b.address, Code: packets.ConnackUnsupportedProtocolVersion,
			Reason: "it speaks MQTT 3.1.1, and closes the connection at MQTT 5: switch MQTT 5 on for its listener, or use a broker that speaks it, e.g. mosquitto 2",
		}
	}
	return conn, reader, connack, err
}

// speaksMQTT311 reports whether a CONNECT of MQTT 3.1.1 is answered by a CONNACK. A refusal
// suffices, so no password is sent.
func (b *broker) speaksMQTT311(ctx context.Context) bool {
	conn, err := b.dial(ctx)
	if err != nil {
		return false
	}
	defer closeNow(conn)
	stop := context.AfterFunc(ctx, func() { closeNow(conn) })
	defer stop()
	clientID := newProbeID()
	packet := []byte{packets.CONNECT << 4, byte(12 + len(clientID)), 0, 4, 'M', 'Q', 'T', 'T', 4}
	const cleanSession, keepAliveSeconds = 1 << 1, 30
	packet = append(packet, cleanSession, 0, keepAliveSeconds, 0, byte(len(clientID)))
	packet = append(packet, clientID...)
	if _, err := conn.Write(packet); err != nil {
		return false
	}
	answer, err := bufio.NewReaderSize(conn, 16).Peek(2)
	return err == nil && answer[0] == packets.CONNACK<<4 && answer[1] == 2
}
