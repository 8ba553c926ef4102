package testkit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates for tests. Its files are readable for the servers of the kit, which
// run as other users.
type Authority struct {
	CAFile string // the authority's own certificate, in PEM format
	dir    string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
}

// Certificate is a certificate with its private key, in PEM format.
type Certificate struct{ CertFile, KeyFile string }

// NewAuthority makes an authority, and its folder, which goes when the test ends.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	dir, err := os.MkdirTemp("", "reactor-certificates-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	a := &Authority{dir: dir, CAFile: filepath.Join(dir, "ca.pem")}
	template := certificateTemplate("authority of " + t.Name())
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	a.key = newKey(t)
	a.cert = a.sign(t, template, a.key, template, a.CAFile)
	return a
}

// Issue signs a certificate for hosts, names or addresses, that is valid now.
func (a *Authority) Issue(t testing.TB, hosts ...string) Certificate {
	return a.IssueUntil(t, time.Now().Add(time.Hour), hosts...)
}

// IssueUntil signs a certificate that is valid until a time, which may be over.
func (a *Authority) IssueUntil(t testing.TB, end time.Time, hosts ...string) Certificate {
	t.Helper()
	template := certificateTemplate(hosts[0])
	template.NotAfter = end
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	name := filepath.Join(a.dir, rand.Text())
	issued := Certificate{CertFile: name + ".pem", KeyFile: name + ".key"}
	key := newKey(t)
	a.sign(t, template, key, a.cert, issued.CertFile)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, issued.KeyFile, "PRIVATE KEY", private)
	return issued
}

func (a *Authority) sign(t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey, by *x509.Certificate, file string) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, by, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, file, "CERTIFICATE", der)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func certificateTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	WriteFile(t, file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// WriteFile replaces a file in one step, as whoever renews a certificate or a password should.
func WriteFile(t testing.TB, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}
