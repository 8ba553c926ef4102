package pgsource

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A connection string may name several hosts, and a name may have several addresses. pgx tries them
// one after the other, each for the whole of connect_timeout. Behind a host without power, or one
// whose packets a firewall drops, that is too late for a heartbeat and for every statement that
// waits. So they are tried as in RFC 8305 (happy eyeballs):
//
//	db1  ├──── silent ──────────────────────┤ given up
//	db2         ├─ read-only                       begins headStart after db1
//	db3            ├──── accepts writes ────┤ used   begins when db2 has failed
//
// Each has its own connect_timeout. The first that accepts us is used; ValidateConnect says who
// does. Names are looked up again at every connection, and nothing is stored of them, so that a
// name that moves to another server is followed.

// headStart is how long a host, or an address, is tried alone before the next one is tried as
// well: the Connection Attempt Delay that RFC 8305 recommends. A server in the same region takes a
// few milliseconds.
const headStart = 250 * time.Millisecond

// hosts connects to one of the hosts of a connection string. The one that was used last is tried
// first: behind a silent host every further connection would otherwise begin with a headStart.
type hosts struct {
	last  atomic.Pointer[string] // the name of the host that was used last; nil: none
	files *liveFiles             // what the files of the connection string say; nil: nothing is kept of that
	// chosen is told of each connection that is going to be used, and may refuse it; nil: nobody. Until then a connection has no
	// consequences: it may be that of a host which loses the race.
	chosen func(*pgconn.PgConn) error
}

// opener opens connections of some kind.
type opener[C any] struct {
	open    func(context.Context, *pgx.ConnConfig) (C, error)
	chosen  func(C) error
	abandon func(C)
}

// connect opens a connection with the settings of cfg, a configuration of parseURL, and with what its
// files say now.
func (h *hosts) connect(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	return connectAny(ctx, h, cfg, opener[*pgx.Conn]{
		open:    pgx.ConnectConfig,
		chosen:  func(conn *pgx.Conn) error { return h.choose(conn.PgConn()) },
		abandon: func(conn *pgx.Conn) { conn.PgConn().Conn().Close() },
	})
}

// connectProtocol is connect for a connection on which pgx does no more than the protocol.
func (h *hosts) connectProtocol(ctx context.Context, cfg *pgx.ConnConfig) (*pgconn.PgConn, error) {
	return connectAny(ctx, h, cfg, opener[*pgconn.PgConn]{
		open: func(ctx context.Context, cfg *pgx.ConnConfig) (*pgconn.PgConn, error) {
			return pgconn.ConnectConfig(ctx, &cfg.Config)
		},
		chosen:  h.choose,
		abandon: func(conn *pgconn.PgConn) { conn.Conn().Close() },
	})
}

func (h *hosts) choose(conn *pgconn.PgConn) error {
	if h.chosen == nil {
		return nil
	}
	return h.chosen(conn)
}

func connectAny[C any](ctx context.Context, h *hosts, cfg *pgx.ConnConfig, by opener[C]) (C, error) {
	var none C
	list := splitHosts(h.current(cfg))
	if last := h.last.Load(); last != nil {
		if at := slices.IndexFunc(list, func(one host) bool { return one.name == *last }); at > 0 {
			one := list[at]
			list = slices.Insert(slices.Delete(list, at, at+1), 0, one)
		}
	}
	attempts := make([]func(context.Context) (C, error), len(list))
	for i, one := range list {
		attempts[i] = func(ctx context.Context) (C, error) { return connectHost(ctx, one, by) }
	}
	conn, used, errs := race(ctx, attempts, by.abandon)
	if used < 0 {
		if len(errs) == 1 {
			return none, errs[0]
		}
		return none, &hostsError{list, errs}
	}
	if err := by.chosen(conn); err != nil {
		by.abandon(conn)
		return none, err
	}
	h.last.Store(&list[used].name)
	return conn, nil
}

// connectHost opens a connection to one of the addresses of a host.
func connectHost[C any](ctx context.Context, h host, by opener[C]) (C, error) {
	if h.socket() {
		return by.open(ctx, h.cfg)
	}
	var none C
	lookup, cancel := context.WithTimeout(ctx, h.cfg.ConnectTimeout)
	defer cancel()
	addresses, err := h.cfg.LookupFunc(lookup, h.cfg.Host)
	if err == nil && len(addresses) == 0 {
		err = errors.New("the name has no address")
	}
	if err != nil {
		return by.open(ctx, h.at(func(context.Context, string) ([]string, error) { return nil, err })) // its error says where
	}
	attempts := make([]func(context.Context) (C, error), len(addresses))
	for i, address := range addresses {
		attempts[i] = func(ctx context.Context) (C, error) {
			return by.open(ctx, h.at(func(context.Context, string) ([]string, error) { return []string{address}, nil }))
		}
	}
	conn, used, errs := race(ctx, attempts, by.abandon)
	if used < 0 {
		return none, mostTelling(errs)
	}
	return conn, nil
}

// race runs attempts until one succeeds. The next one begins when one has failed, or headStart after
// the one before. When one has succeeded the others are cancelled, and abandon gets what they have
// opened even so. race returns when all have ended. used is -1 if all have failed; then errs has one
// error for each attempt.
func race[C any](ctx context.Context, attempts []func(context.Context) (C, error), abandon func(C)) (won C, used int, errs []error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		at   int
		conn C
		err  error
	}
	results := make(chan result)
	used, errs = -1, make([]error, len(attempts))
	begun, running := 0, 0
	timer := time.NewTimer(headStart)
	defer timer.Stop()
	beginNext := func() {
		if used >= 0 || begun == len(attempts) {
			return
		}
		at := begun
		begun++
		running++
		timer.Reset(headStart)
		go func() {
			conn, err := attempts[at](ctx)
			results <- result{at, conn, err}
		}()
	}
	beginNext()
	for running > 0 {
		select {
		case <-timer.C:
			beginNext()
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				errs[r.at] = r.err
				beginNext()
			case used >= 0:
				abandon(r.conn)
			default:
				won, used = r.conn, r.at
				cancel()
			}
		}
	}
	return won, used, errs
}

// host is a host of a connection string.
type host struct {
	name string          // with its port
	cfg  *pgx.ConnConfig // for this host alone
}

// splitHosts returns the hosts of a configuration. pgx has several entries in a row for a host if
// sslmode allows a connection with TLS and one without.
func splitHosts(cfg *pgx.ConnConfig) []host {
	var list []host
	for _, entry := range append([]*pgconn.FallbackConfig{{Host: cfg.Host, Port: cfg.Port, TLSConfig: cfg.TLSConfig}}, cfg.Fallbacks...) {
		name := net.JoinHostPort(entry.Host, strconv.Itoa(int(entry.Port)))
		if n := len(list); n > 0 && list[n-1].name == name {
			list[n-1].cfg.Fallbacks = append(list[n-1].cfg.Fallbacks, entry)
			continue
		}
		one := cfg.Copy()
		one.Host, one.Port, one.TLSConfig, one.Fallbacks = entry.Host, entry.Port, entry.TLSConfig, nil
		list = append(list, host{name, one})
	}
	return list
}

// socket reports whether the host is the folder of a Unix domain socket.
func (h host) socket() bool {
	network, _ := pgconn.NetworkAddress(h.cfg.Host, h.cfg.Port)
	return network == "unix"
}

// at returns the configuration with the answer of a lookup.
func (h host) at(lookup pgconn.LookupFunc) *pgx.ConnConfig {
	one := h.cfg.Copy()
	one.LookupFunc = lookup
	return one
}

// hostsError is why none of several hosts could be used.
type hostsError struct {
	hosts []host
	errs  []error // one for each host
}

// Error returns one line.
func (e *hostsError) Error() string {
	parts := make([]string, len(e.errs))
	for i, err := range e.errs {
		parts[i] = e.hosts[i].name + " " + briefly(err)
	}
	return "no host of the database URL can be used: " + strings.Join(parts, "; ")
}

func (e *hostsError) Unwrap() []error { return e.errs }

// readOnly reports whether all of the hosts have answered that they take no writes.
func (e *hostsError) readOnly() bool {
	return !slices.ContainsFunc(e.errs, func(err error) bool { return !errors.Is(err, errReadOnly) })
}

// briefly says in a few words why a host cannot be used, without its name.
func briefly(err error) string {
	var (
		pgErr  *pgconn.PgError
		dnsErr *net.DNSError
		former *formerServerError
	)
	switch {
	case errors.As(err, &former):
		return former.briefly()
	case errors.Is(err, errReadOnly):
		return "is read-only"
	case errors.As(err, &pgErr):
		return fmt.Sprintf("says %q (SQLSTATE %s)", pgErr.Message, pgErr.Code)
	case errors.As(err, &dnsErr):
		return "is not found: " + dnsErr.Err
	case unanswered(err):
		return "does not answer"
	}
	var connectErr *pgconn.ConnectError
	if errors.As(err, &connectErr) {
		err = connectErr.Unwrap()
	}
	return "fails: " + lastLine(err)
}

// unanswered reports whether a host has given no answer in time.
func unanswered(err error) bool {
	var netErr net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout()
}

// mostTelling returns the error that says most: what a server has answered rather than that one
// has not.
func mostTelling(errs []error) error {
	for _, says := range []func(error) bool{
		func(err error) bool { return sqlState(err) != "" },
		func(err error) bool { return errors.Is(err, errReadOnly) },
		func(err error) bool { return !unanswered(err) },
	} {
		if at := slices.IndexFunc(errs, says); at >= 0 {
			return errs[at]
		}
	}
	return errs[0]
}
