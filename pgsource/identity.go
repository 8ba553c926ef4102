package pgsource

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// A deployment is one database with its jobs. Its name is part of the MQTT client ids of its lanes,
// and the broker identifies a lane by its client id alone. So a copy of the database needs another
// name: otherwise it would take over the sessions of the original, and mix its packet ids with
// theirs.
//
// A copy that was restored from a dump differs from the original in the system identifier of its
// cluster, or in its oid if it is in the same cluster. A physical copy (a base backup, a snapshot
// of the disk) has the same values for both, as a promoted standby must: nothing in the database
// tells it from the original. If both run at once, that shows at the broker, where they take each
// other's sessions over (reactor/takeovers.go).

// identify compares the database with the one that the deployment's name was given for, and sets
// the prefix of the client ids. A copy takes a new name before any of its lanes is leased: its
// journal is about the original's messages, and will find no session at the broker.
//
// All of it is one transaction, made by one instance at a time. If we crash before its commit, the
// next start does it again; if after it, the next start finds everything in order.
//
// Mostly everything is in order, so it is looked at without the lock first: fifty instances that
// start at once would wait for each other, and for the distribution of shards, until some give up.
func (s *Source) identify(ctx context.Context) error {
	inOrder, err := s.identifyOnce(ctx, false)
	if err == nil && !inOrder {
		_, err = s.identifyOnce(ctx, true)
	}
	return err
}

// identifyOnce is identify in one transaction. Without the lock it changes nothing.
func (s *Source) identifyOnce(ctx context.Context, locked bool) (inOrder bool, err error) {
	var name string
	run := s.control.tx
	if locked {
		run = s.underMembershipLock
	}
	err = run(ctx, func(tx pgx.Tx) error {
		var had, have struct {
			system   int64
			database uint32
		}
		if err := tx.QueryRow(ctx, `
			SELECT name, coalesce(system_identifier, 0), coalesce(database, 0), oid
			  FROM reactor.deployment, pg_database WHERE datname = current_database()`).
			Scan(&name, &had.system, &had.database, &have.database); err != nil {
			return err
		}
		// Some managed services do not let every role read it. The right is checked by a statement
		// of its own, because PostgreSQL checks it before it evaluates a CASE.
		var mayAsk bool
		err := tx.QueryRow(ctx, "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')").Scan(&mayAsk)
		if err == nil && mayAsk {
			err = tx.QueryRow(ctx, "SELECT system_identifier FROM pg_control_system()").Scan(&have.system)
		}
		if err != nil {
			return err
		}
		if have.system == 0 && had.database == have.database {
			have.system = had.system // keep the value that another role could read
		}
		copied := had.database != 0 && (had.database != have.database || had.system != have.system && had.system != 0 && have.system != 0)
		want := name
		switch {
		case s.cfg.Deployment != "":
			want = s.cfg.Deployment
		case copied:
			want = newName()
		}
		if want != name && !copied {
			if err := refuseRenaming(ctx, tx, name, want); err != nil {
				return err
			}
		}
		if want == name && !copied && had == have {
			inOrder = true
			return nil
		}
		if !locked {
			return nil
		}
		switch {
		case copied && want == name:
			s.log.Warn("this database is a copy of another deployment's and is told to keep its name: the two must not share a broker", "deployment", name)
		case copied:
			s.log.Warn("this database is a copy of another deployment's; its MQTT sessions get a name of their own", "was", name, "is", want)
		}
		if want != name {
			for _, sql := range underAnotherName {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return err
				}
			}
		}
		name = want
		_, err = tx.Exec(ctx, "UPDATE reactor.deployment SET name = $1, system_identifier = nullif($2::bigint, 0), database = $3", name, have.system, have.database)
		return err
	})
	s.clientIDPrefix = "reactor-" + name + "-"
	return inOrder, err
}

// underAnotherName is what another name means for the tables. The sessions that carry the marks are not ours. The memberships
// of instances end that have been frozen or cut off for so long that they count as gone: they would go on with the client ids that they
// know, beside others with new ones.
var underAnotherName = []string{
	"DELETE FROM reactor.instances WHERE heartbeat_at OPERATOR(pg_catalog.<=) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 minute'::pg_catalog.interval)",
	"UPDATE reactor.lanes SET mark = NULL, owner = (SELECT id FROM reactor.instances WHERE id OPERATOR(pg_catalog.=) owner)",
}

// refuseRenaming makes sure that nothing depends on the old name.
func refuseRenaming(ctx context.Context, tx pgx.Tx, name, want string) error {
	var alive, journalled int
	if err := tx.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM reactor.instances WHERE heartbeat_at > clock_timestamp() - interval '1 minute'),
		       (SELECT count(*) FROM reactor.in_flight)`).Scan(&alive, &journalled); err != nil {
		return err
	}
	switch {
	case alive > 0:
		return fmt.Errorf("the deployment is called %s, and %d instances run under that name: stop all of them before you start one as %s (pgsource.Config.Deployment)", name, alive, want)
	case journalled > 0:
		return fmt.Errorf("the deployment is called %s, and messages are in flight under that name: run an instance as %s once more and stop it cleanly, then start all as %s (pgsource.Config.Deployment)", name, name, want)
	}
	return nil
}

func newName() string {
	var random [4]byte
	rand.Read(random[:]) // never fails, by its documentation
	return hex.EncodeToString(random[:])
}
