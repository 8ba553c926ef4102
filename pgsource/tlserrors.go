package pgsource

import (
	"crypto/x509"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// refusedTLS is the text of pgx for a server that was asked for TLS and has none.
const refusedTLS = "server refused TLS connection"

// explainTLS says what to do about a connection that failed because of TLS; nil: it did not.
func explainTLS(where string, err error) error {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &unknown):
		return explained(err, "the certificate of %s is signed by an authority that is not trusted here: name the file of the authority's certificate in the database URL, sslrootcert=FILE", where)
	case errors.As(err, &name):
		return explained(err, "the certificate of %s is for another name (%v): use a name that it has in the database URL, or have the server's certificate issued for this one", where, name)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return explained(err, "the certificate of %s is not valid at this time (%v): renew it on the server, or correct the clock of this host", where, invalid)
	case errors.As(err, &invalid):
		return explained(err, "the certificate of %s cannot be used (%v): have another one issued for the server", where, invalid)
	case strings.Contains(err.Error(), refusedTLS): // pgx has no value for it
		return explained(err, "%s has no TLS, which the database URL demands: switch ssl on at the server, or allow connections without TLS, sslmode=prefer", where)
	}
	return nil
}

// wantsCertificate reports whether a server refused a connection because it wants a certificate of ours, by the text of
// its hba rules or of the TLS library.
func wantsCertificate(pgErr *pgconn.PgError) bool {
	return strings.Contains(pgErr.Message, "client certificate")
}
