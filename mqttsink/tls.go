package mqttsink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/job-publisher/reactor/reactor/driver"
)

// tlsSettings make the TLS configuration of each connection. The files are read for each, so that a
// renewed certificate is in use from the next connection on.
type tlsSettings struct {
	base       *tls.Config // Config.TLS; may be nil
	serverName string      // "": the URL's host
	ca         *liveFile[*x509.CertPool]
	pair       *liveFile[tls.Certificate]
}

// newTLSSettings checks the fields that are about TLS. secure tells that a URL asks for TLS: without,
// somebody who names a certificate would believe that the connection is encrypted.
func newTLSSettings(cfg *Config, secure bool) (*tlsSettings, error) {
	for _, f := range []struct{ field, value string }{
		{"CAFile", cfg.CAFile}, {"CertFile", cfg.CertFile}, {"KeyFile", cfg.KeyFile}, {"ServerName", cfg.ServerName},
	} {
		if f.value != "" && !secure {
			return nil, &driver.ConfigError{Field: f.field, Problem: "is for TLS, and the broker's address does not ask for it: write mqtts:// or wss://"}
		}
	}
	switch {
	case cfg.CertFile != "" && cfg.KeyFile == "":
		return nil, &driver.ConfigError{Field: "CertFile", Problem: "is given without its private key: give KeyFile as well"}
	case cfg.KeyFile != "" && cfg.CertFile == "":
		return nil, &driver.ConfigError{Field: "KeyFile", Problem: "is given without its certificate: give CertFile as well"}
	}
	s := &tlsSettings{base: cfg.TLS, serverName: cfg.ServerName}
	var err error
	if cfg.CAFile != "" {
		if s.ca, err = openLive("CAFile", parseAuthorities, cfg.CAFile); err != nil {
			return nil, err
		}
	}
	if cfg.CertFile != "" {
		s.pair, err = openLive("CertFile", func(contents [][]byte) (tls.Certificate, error) {
			return tls.X509KeyPair(contents[0], contents[1])
		}, cfg.CertFile, cfg.KeyFile)
	}
	return s, err
}

func parseAuthorities(contents [][]byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(contents[0]) {
		return nil, errors.New("it contains no certificate in PEM format")
	}
	return pool, nil
}

// startTLS makes a connection to a broker one of TLS. There is no way to leave the verification of its
// certificate out.
func (b *broker) startTLS(ctx context.Context, conn net.Conn) (net.Conn, error) {
	cfg := b.tls.base.Clone()
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if b.tls.ca != nil {
		cfg.RootCAs = b.tls.ca.latest(b.cfg.Logger)
	}
	if b.tls.pair != nil {
		cfg.Certificates = []tls.Certificate{b.tls.pair.latest(b.cfg.Logger)}
	}
	if b.tls.serverName != "" {
		cfg.ServerName = b.tls.serverName
	}
	if cfg.ServerName == "" {
		cfg.ServerName = b.host
	}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, b.explainTLS(err)
	}
	return secure, nil
}

// explainTLS says what is wrong with a certificate, and what to do about it.
func (b *broker) explainTLS(err error) error {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		noTLS   tls.RecordHeaderError
	)
	remedy := "is this its TLS port, and its certificate trusted?"
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("broker %s: %w", b.address, err)
	case errors.As(err, &unknown):
		remedy = "give the certificate of the authority that has signed the broker's by mqttsink.Config.CAFile"
	case errors.As(err, &name):
		remedy = "write the URL with a name of the broker's certificate, or give that name by mqttsink.Config.ServerName"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		remedy = "renew the broker's certificate, or set this host's clock"
	case errors.As(err, &noTLS):
		remedy = "check the port; a broker without TLS has mqtt:// or ws:// in the URL"
	case refusedByPeer(err):
		remedy = wantsCertificate
	}
	return fmt.Errorf("broker %s: TLS failed: %w: %s", b.address, err, remedy)
}

const wantsCertificate = "does it want a certificate of ours (mqttsink.Config.CertFile and mqttsink.Config.KeyFile), and trust its authority?"

// refusedByPeer reports whether the broker has ended TLS by an alert. With TLS 1.3 that arrives when
// our side of the handshake is complete, in the place of an answer.
func refusedByPeer(err error) bool {
	var alert *net.OpError
	return errors.As(err, &alert) && alert.Op == "remote error"
}
