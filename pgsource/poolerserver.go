package pgsource

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// A pooler keeps our connections while what is behind it changes: a failover, a name that moves, a changed
// configuration, another database of that name. What a new connection is asked for (place.go) then says nothing about the next
// statement. So behind a pooler every statement, which begins with its settings anyway, makes one more condition with them: that
// the server was started when the one was that we know, and that the database is the same. Otherwise it fails before it has any
// effect, all connections are opened again, and the first of the new ones finds out what has happened. A standby is another server as
// well, so that nothing is read from one that lags behind.
//
// That costs the server two comparisons, and no round trip.
type serverGuard struct {
	timelines *timelines
	reset     func() // opens all connections again
}

// errPoolerNow: a pooler has come in between. In transaction mode it would give the settings that we make for a session to
// other clients, and us theirs.
var errPoolerNow = errors.New("the database URL leads through a pooler now, and did not when this instance was started: restart the instance, which then works with the pooler")

// otherServer begins the name of a setting that does not exist, which goes on with the place that was expected. To read it is the
// only way for an expression to fail with a text of ours.
const otherServer = "reactor.elsewhere_than_"

// expecting is the name for a place. It ends with a sign that no number contains.
func expecting(at place) string { return fmt.Sprintf("%s%d_%d_", otherServer, at.started, at.database) }

// condition returns the condition in a list of expressions, with a comma before it; "" if there is none.
func (g *serverGuard) condition() string {
	if g == nil {
		return ""
	}
	at := g.timelines.where()
	if at.started == 0 {
		return ""
	}
	same := fmt.Sprintf("%s OPERATOR(pg_catalog.=) '%d'::pg_catalog.int8", startedSQL, at.started)
	if at.folder != 0 {
		same += fmt.Sprintf(" AND %s OPERATOR(pg_catalog.=) '%d'::pg_catalog.text", folderSQL, at.folder)
	}
	return fmt.Sprintf(", CASE WHEN %s THEN '' ELSE pg_catalog.current_setting('%s') END", same, expecting(at))
}

// notice returns the error of a statement. If it met another server, it had no effect. The connections are opened again, unless
// that was done since the statement was made: then they are good ones.
func (g *serverGuard) notice(err error) error {
	var refused *pgconn.PgError
	if g == nil || !errors.As(err, &refused) || refused.Code != pgerrcode.UndefinedObject || !strings.Contains(refused.Message, otherServer) {
		return err
	}
	if strings.Contains(refused.Message, expecting(g.timelines.where())) {
		g.reset()
	}
	return &notSentError{errFailedOver}
}
