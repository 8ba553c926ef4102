package mqttsink_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/reactor/driver"
)

// reactor.New takes the sink and uses it. This shows what reactor does with it for one message. It
// needs a broker, so it is compiled and not run.
func Example() {
	sink, err := mqttsink.New(mqttsink.Config{
		URL: "mqtts://broker.example.com", Username: "reactor", Password: "secret",
		TLS: &tls.Config{ServerName: "broker.internal", MinVersion: tls.VersionTLS13},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answers := make(chan driver.Ack, 1)
	session, err := sink.Connect(ctx, driver.ConnectOptions{
		ClientID: "reactor-example-1", QoS: 1,
		Acks: func(acks []driver.Ack) {
			for _, ack := range acks {
				answers <- ack
			}
		},
	})
	var refused *driver.ConnectRefusedError
	if errors.As(err, &refused) {
		log.Fatal("somebody has to change something: ", refused.Reason)
	}
	if err != nil {
		log.Fatal("try again: ", err)
	}
	if err := session.Publish([]driver.Message{{Slot: 1, JobID: 42, Topic: "lamp/7", Payload: []byte("on"), QoS: 1}}); err != nil {
		log.Fatal(err)
	}
	if ack := <-answers; ack.Refused() {
		log.Print("the broker refuses the message: ", ack.Reason)
	}
	if err := session.Close(ctx); err != nil {
		log.Fatal(err)
	}
}

// New does not connect. It names the field of the configuration that it refuses, and never repeats
// a URL, which may contain a password.
func ExampleNew() {
	_, err := mqttsink.New(mqttsink.Config{URL: "http://user:secret@localhost"})
	fmt.Println(err)

	var bad *driver.ConfigError
	if errors.As(err, &bad) {
		fmt.Println(bad.Field)
	}
	// Output:
	// mqttsink: URL must begin with mqtt:// or mqtts://, or for a WebSocket with ws:// or wss://
	// URL
}
