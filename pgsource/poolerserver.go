package pgsource

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// A pooler keeps our connections while the server behind it changes: a failover, a name that moves, a changed
// configuration. What a new connection is asked for (place.go) then says nothing about the next statement. So
// behind a pooler every statement, which begins with its settings anyway, makes one more condition with them: that
// the server was started when the one was that we know. Otherwise it fails before it has any effect, all connections
// are opened again, and the first of the new ones finds out what has happened.
//
// That costs the server a comparison, and no round trip.
type serverGuard struct {
	timelines *timelines
	reset     func() // opens all connections again
}

// otherServer is the name of a setting that does not exist. To read it is the only way for an expression
// to fail with a text of ours.
const otherServer = "reactor.another_server_answers"

// condition returns the condition in a list of expressions, with a comma before it; "" if there is none. A server in
// recovery refuses the statement by itself.
func (g *serverGuard) condition() string {
	if g == nil {
		return ""
	}
	started := g.timelines.started()
	if started == 0 {
		return ""
	}
	return fmt.Sprintf(", CASE WHEN pg_catalog.pg_is_in_recovery() OR %s OPERATOR(pg_catalog.=) '%d'::pg_catalog.int8 THEN '' ELSE pg_catalog.current_setting('%s') END",
		startedSQL, started, otherServer)
}

// notice returns the error of a statement. If it met another server, it had no effect.
func (g *serverGuard) notice(err error) error {
	var refused *pgconn.PgError
	if g == nil || !errors.As(err, &refused) || refused.Code != pgerrcode.UndefinedObject || !strings.Contains(refused.Message, otherServer) {
		return err
	}
	g.reset()
	return &notSentError{errFailedOver}
}
