package mqttsink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http/httptest"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestAnswersThatAreTooFewToGather: the single answer of a broker that answers only one of many
// messages is reported nevertheless, and so are a few answers before the broker closes the
// connection.
func TestAnswersThatAreTooFewToGather(t *testing.T) {
	t.Run("plain", func(t *testing.T) {
		testTooFewAnswers(t, listen(t), "mqtt", nil)
	})
	// With TLS the bytes on the socket are not those of the answers, and a deadline may end a read
	// in the middle of a record.
	t.Run("TLS", func(t *testing.T) {
		certified := httptest.NewTLSServer(nil) // for its certificate
		certified.Close()
		trusted := x509.NewCertPool()
		trusted.AddCert(certified.Certificate())
		server := &tls.Config{Certificates: certified.TLS.Certificates}
		testTooFewAnswers(t, tls.NewListener(listen(t), server), "mqtts", &tls.Config{RootCAs: trusted})
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func testTooFewAnswers(t *testing.T, listener net.Listener, scheme string, client *tls.Config) {
	const sent = 4 * gatherFrom
	ctx := testContext(t)
	accept := connack(t, 0, nil)
	heard := make(chan struct{})
	broker := make(chan error, 1)
	go func() {
		broker <- func() error {
			conn, err := listener.Accept()
			if err != nil {
				return err
			}
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			if _, err := packets.ReadPacket(conn); err != nil {
				return err
			}
			if _, err := conn.Write(accept); err != nil {
				return err
			}
			for range sent {
				if _, err := packets.ReadPacket(conn); err != nil {
					return err
				}
			}
			for id := byte(1); id <= 2; id++ {
				if _, err := conn.Write([]byte{packets.PUBACK << 4, 2, 0, id}); err != nil {
					return err
				}
				<-heard // one by one
			}
			_, err = conn.Write([]byte{packets.PUBACK << 4, 2, 0, 3, packets.PUBACK << 4, 2, 0, 4})
			return err
		}()
	}()
	t.Cleanup(func() { listener.Close() })

	session, acks := open(t, ctx, newSink(t, Config{URL: scheme + "://" + listener.Addr().String(), TLS: client}), "x", 1)
	if err := session.Publish(messages("x", 1, sent)); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		if got := acks.wait(t, ctx, n); len(got) != n || got[n-1].Slot != driver.Slot(n) {
			t.Fatalf("acknowledgements %+v", got)
		}
		heard <- struct{}{}
	}
	<-session.Done()
	if got := acks.wait(t, ctx, 4); got[3].Slot != 4 {
		t.Errorf("the last acknowledgements are %+v", got)
	}
	if err := <-broker; err != nil {
		t.Error(err)
	}
}
