package pgsource

import (
	"context"
	"errors"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// An instance enters beside those with which it shares a protocol only (driver/protocol.go). It looks before it
// enters, so that the others do not share with an instance that leaves at once, and again afterwards: of two that
// enter at the same moment, and of which neither sees the other before, one at least sees the other then. A later
// look is not needed, because whoever comes later looks as well. Instances before version 7 of the schema do
// not; they are of protocol 1.

// enterSQL makes an instance known, enterSilentlySQL in a schema before version 7.
const (
	enterSQL = `
INSERT INTO reactor.instances (id, name, backends, dynamic, feed, shard_hints, schema_version, version, protocol, protocol_oldest)
VALUES ($1, $2, $3, $4, '', true, $5, nullif($6, ''), $7, $8)`
	enterSilentlySQL = `
INSERT INTO reactor.instances (id, name, backends, dynamic, feed, shard_hints, schema_version) VALUES ($1, $2, $3, $4, '', true, $5)`
)

// strangerSQL finds a member that we do not understand, or that does not understand us. One that has not answered
// for a TTL is dead or about to be deposed. The row is read as JSON, because the columns are missing before version 7.
const strangerSQL = `
WITH members AS (
    SELECT name, coalesce(to_jsonb(i) ->> 'version', '') AS version,
           coalesce((to_jsonb(i) ->> 'protocol')::integer, 1) AS newest, coalesce((to_jsonb(i) ->> 'protocol_oldest')::integer, 1) AS oldest
      FROM reactor.instances i WHERE id <> $1 AND heartbeat_at >= clock_timestamp() - $2::interval
)
SELECT name, version, newest, oldest FROM members WHERE newest < $3 OR oldest > $4 ORDER BY name LIMIT 1`

// enter makes the member known to the others.
func (m *member) enter(ctx context.Context) error {
	if err := m.refuseStrangers(ctx); err != nil {
		return err
	}
	// Through the pool with durable commits: after a crash of Postgres a lost row would look as if
	// this instance had been deposed. If we crash after it, the row lapses.
	args := []any{m.id, m.cfg.Name, m.backends, m.static == 0, schema.Newest()}
	err := m.work.exec(ctx, enterSQL, append(args, printable(m.cfg.Version, mostVersion), m.protocols.Newest, m.protocols.Oldest)...)
	if m.silent = sqlState(err) == pgerrcode.UndefinedColumn; m.silent {
		m.log.Warn("the schema of the database is of an earlier version, and `reactor status` shows little of this instance: run `reactor migrate up`, and start it again")
		err = m.work.exec(ctx, enterSilentlySQL, args...)
	}
	if err != nil {
		return err
	}
	if err := m.refuseStrangers(ctx); err != nil {
		return errors.Join(err, m.Leave(ctx))
	}
	return nil
}

// refuseStrangers returns a *driver.ProtocolError if there is one.
func (m *member) refuseStrangers(ctx context.Context) error {
	var (
		name, version string
		theirs        driver.Protocols
	)
	err := m.work.row(ctx, strangerSQL, []any{m.id, interval(m.cfg.TTL), m.protocols.Oldest, m.protocols.Newest}, &name, &version, &theirs.Newest, &theirs.Oldest)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.protocols.Check(theirs, name, version)
}
