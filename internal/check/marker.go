package check

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"strconv"

	"github.com/eclipse/paho.golang/paho"
)

// Mark publishes a message with this job id at QoS 2 and returns when the broker has it.
// A subscriber receives messages in the order in which the broker accepted them. So when
// it has received this message, no earlier one is still in transit.
func Mark(ctx context.Context, brokerURL, topic string, id int64) error {
	server, err := url.Parse(brokerURL)
	if err != nil {
		return fmt.Errorf("mark: not a URL")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", server.Host)
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	client := paho.NewClient(paho.ClientConfig{Conn: conn})
	cp := &paho.Connect{ClientID: "reactor-mark-" + rand.Text(), CleanStart: true, KeepAlive: 30}
	if server.User != nil {
		password, set := server.User.Password()
		cp.UsernameFlag, cp.Username = true, server.User.Username()
		cp.PasswordFlag, cp.Password = set, []byte(password)
	}
	if _, err := client.Connect(ctx, cp); err != nil {
		_ = conn.Close()
		return fmt.Errorf("mark: connect: %w", err)
	}
	defer client.Disconnect(&paho.Disconnect{})
	_, err = client.Publish(ctx, &paho.Publish{Topic: topic, QoS: 2, Properties: &paho.PublishProperties{
		User: paho.UserProperties{{Key: jobIDProperty, Value: strconv.FormatInt(id, 10)}},
	}})
	if err != nil {
		return fmt.Errorf("mark: publish: %w", err)
	}
	return nil
}
