package pgsource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The membership has no leader. Every instance beats: it renews its heartbeat and reads the whole
// membership. If a beat shows that something has no living owner, or that the shares are unfair,
// that instance corrects it for all, under one lock (membershiplock.go).
//
//	        Join                    Leave
//	absent ──────► living ────────────────────► absent
//	                │  ▲
//	   no beat for  │  │ beat
//	   a whole TTL  ▼  │                the beat of another instance
//	               lapsed ────────────────────► deposed: Beat returns ErrDeposed
//
// If the database session of an instance is gone as well, which happens at once when its process is
// killed, the instance has lapsed after half a TTL. Only an instance whose own session has lasted
// since may say so: a crash of the server ends all sessions. It can still be wrong: the connection
// may have been cut, and the next one not yet made. The error costs the instance a new start and
// nothing else, because its id and the epochs of its lanes make void what it still does.
//
// An instance may depose another one only after it has itself been beating without a gap for as
// long as the other has not. After an outage or a stall of the database every heartbeat is old, and
// the first instance to return must not depose the others.
//
// The database's clock may be set back, by hand or by a failover to a server whose clock is behind.
// Earlier heartbeats are then in the future, and those of dead instances would look fresh until the
// clock has caught up. So a beat sets heartbeats from the future to the current time: a living
// instance beats again, and a dead one lapses from there.

// member is one incarnation of an instance. It implements driver.Member.
type member struct {
	*Source
	id        int64
	wantLanes int
	static    driver.ShardSet // the fixed share; 0: what the membership says
	// snapshot is the text of what the next beat tells; "": nothing yet. silent: the schema has no place for it.
	snapshot string
	silent   bool
}

// Join implements driver.Source.
func (s *Source) Join(ctx context.Context, opts driver.JoinOptions) (driver.Member, error) {
	m := &member{Source: s, id: rand.Int64N(1<<62) + 1, wantLanes: opts.Lanes, static: opts.Static}
	s.owned.Store(uint64(driver.AllShards))
	if m.static != 0 {
		s.owned.Store(uint64(m.static))
	}
	if err := s.checkElsewhere(ctx); err != nil {
		return nil, s.failed("join", err)
	}
	if err := m.enter(ctx); err != nil {
		return nil, s.failed("join", err)
	}
	// The deployment may have got another name since it was looked at. From here on it gets none without ending this membership.
	if err := s.identify(ctx); err != nil {
		return nil, s.failed("join", errors.Join(err, m.Leave(ctx)))
	}
	return m, nil
}

// TTL implements driver.Member.
func (m *member) TTL() time.Duration { return m.cfg.TTL }

// WantLanes implements driver.Member.
func (m *member) WantLanes(n int) { m.wantLanes = n }

// Report implements driver.Member.
func (m *member) Report(s driver.Snapshot) { m.snapshot = encodeSnapshot(s) }

// beatSQL renews the heartbeat and returns the whole membership, which is small. A beat that comes
// late, or before the last one, restarts the period of steady beating. A heartbeat from the future
// is left alone while its own instance is renewing it (SKIP LOCKED).
//
// The journal is searched only for lanes without a living owner, and only from where the lane's part
// starts (journalstart.go): an old snapshot of some client can keep all deleted rows of the journal,
// and searching those would slow every beat until lanes lapse. A plain EXISTS is avoided because the
// planner may answer it with a hash table of the whole journal.
// A backend of 0 means that the backend says nothing about the instance, because it belongs to a
// pooler. FeedSwitch reads the columns about the feed (feedswitch.go), and Status the snapshot, which goes with the
// heartbeat so that it costs no statement and no commit.
var beatSQL = `
WITH beat AS (
    UPDATE reactor.instances
       SET heartbeat_at = clock_timestamp(), feed = $4, feed_problem = nullif($5, ''), feed_chosen_at = $6, backend = CASE WHEN $3 THEN 0 ELSE pg_backend_pid() END, snapshot = nullif($7::text, '')::json,
           steady_since = CASE WHEN heartbeat_at NOT BETWEEN clock_timestamp() - $2::interval / 2 AND clock_timestamp() + $2::interval / 2
                               THEN clock_timestamp() ELSE least(steady_since, clock_timestamp()) END
     WHERE id = $1
    RETURNING least(clock_timestamp() - steady_since, $2::interval) AS steady
), brought_back AS (
    UPDATE reactor.instances SET heartbeat_at = clock_timestamp()
     WHERE id IN (SELECT id FROM reactor.instances
                   WHERE id <> $1 AND heartbeat_at > clock_timestamp() + $2::interval / 2 FOR UPDATE SKIP LOCKED)
), members AS (
    SELECT id, dynamic, CASE
               WHEN id = $1 THEN false
               WHEN heartbeat_at < clock_timestamp() - $2::interval THEN steady >= $2::interval
               WHEN backend <> 0 AND heartbeat_at < clock_timestamp() - $2::interval / 2 AND steady >= $2::interval / 2
                    AND heartbeat_at > (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
               THEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = backend)
               ELSE false END AS lapsed
      FROM reactor.instances, beat
), lanes AS (
    SELECT lane, coalesce(owner, 0) AS owner, epoch, coalesce(mark, '') AS mark,
           CASE WHEN EXISTS (SELECT FROM members WHERE id = owner AND NOT lapsed) THEN false
                ELSE coalesce((SELECT true FROM reactor.in_flight f WHERE ` + ofLane("l.lane") + ` LIMIT 1), false) END AS journaled
      FROM reactor.lanes l
)
SELECT EXISTS (SELECT FROM beat),
       ARRAY(SELECT id FROM members ORDER BY id), ARRAY(SELECT lapsed FROM members ORDER BY id),
       ARRAY(SELECT dynamic FROM members ORDER BY id),
       ARRAY(SELECT coalesce(owner, 0) FROM reactor.shards ORDER BY shard),
       ARRAY(SELECT lane FROM lanes ORDER BY lane), ARRAY(SELECT owner FROM lanes ORDER BY lane),
       ARRAY(SELECT epoch FROM lanes ORDER BY lane), ARRAY(SELECT mark FROM lanes ORDER BY lane),
       ARRAY(SELECT journaled FROM lanes ORDER BY lane)`

// beatSilentSQL is beatSQL for a schema before version 7, which has no place for the snapshot.
var beatSilentSQL = strings.Replace(beatSQL, " snapshot = nullif($7::text, '')::json,", "", 1)

// Beat implements driver.Member.
func (m *member) Beat(ctx context.Context) (driver.Holding, error) {
	if err := m.ended(); err != nil {
		return driver.Holding{}, err
	}
	v, err := m.readView(ctx, m.control.row)
	if err != nil {
		return driver.Holding{}, err
	}
	if c := plan(v, m.id, m.wantLanes); !c.empty() {
		if v, err = m.rebalance(ctx, v); err != nil {
			return driver.Holding{}, err
		}
	}
	m.startChores(ctx)
	holding := m.holding(v)
	if m.static == 0 {
		m.owned.Store(uint64(holding.Shards))
	}
	return holding, nil
}

// rowReader runs a statement that returns one row, on a database or in a transaction.
type rowReader func(ctx context.Context, sql string, args []any, into ...any) error

func (m *member) readView(ctx context.Context, row rowReader) (view, error) {
	var (
		v               view
		known           bool
		ids             []int64
		lapsed, dynamic []bool
		shardOwners     []int64
		lanes           []int32
		owners, epochs  []int64
		marks           []string
		journaled       []bool
	)
	feed, problem, chose := m.report()
	sql, args := beatSQL, []any{m.id, interval(m.cfg.TTL), m.pooled, feed, problem, dbTime{chose}}
	if m.silent {
		sql = beatSilentSQL
	} else {
		args = append(args, m.snapshot)
	}
	err := row(ctx, sql, args,
		&known, &ids, &lapsed, &dynamic, &shardOwners, &lanes, &owners, &epochs, &marks, &journaled)
	if err != nil {
		// Version 7 was undone, or a failover has lost it: the next beat tells less.
		m.silent = m.silent || sqlState(err) == pgerrcode.UndefinedColumn
		return v, m.failed("heartbeat", err)
	}
	if err := m.ended(); err != nil { // it was this statement that has led to another database
		return v, err
	}
	if !known { // our row is gone
		return v, driver.ErrDeposed
	}
	for i, id := range ids {
		v.instances = append(v.instances, instance{id: id, lapsed: lapsed[i], dynamic: dynamic[i]})
	}
	if len(shardOwners) != driver.Shards {
		return v, missingShards(len(shardOwners))
	}
	copy(v.owners[:], shardOwners)
	for i, lane := range lanes {
		v.lanes = append(v.lanes, laneRow{lane: lane, owner: owners[i], epoch: epochs[i], mark: marks[i], journaled: journaled[i]})
	}
	return v, nil
}

// missingShards is the error if there are not as many rows as shards.
func missingShards(rows int) error {
	return fmt.Errorf("reactor.shards has %d rows instead of %d, and nobody publishes what belongs to the others: %s", rows, driver.Shards, runRepair)
}

// rebalance makes the plan again under the lock and carries it out. If another instance holds the
// lock, it is doing the same and will announce the result. The transaction does all or nothing: a
// crash before or after its commit leaves a membership that the next beat corrects.
func (m *member) rebalance(ctx context.Context, v view) (view, error) {
	var (
		changed bool
		deposed []string
	)
	err := m.control.tx(ctx, func(tx pgx.Tx) error {
		row := func(ctx context.Context, sql string, args []any, into ...any) error {
			return tx.QueryRow(ctx, sql, args...).Scan(into...)
		}
		var locked bool
		// Ownership, unlike a heartbeat, must survive a crash of Postgres: an epoch that went back
		// would make old leases valid again.
		_, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on")
		if err == nil {
			locked, err = tryMembershipLock(ctx, tx)
		}
		if err != nil || !locked {
			return err
		}
		if v, err = m.readView(ctx, row); err != nil {
			return err
		}
		c := plan(v, m.id, m.wantLanes)
		if c.empty() {
			return nil
		}
		if deposed, err = m.apply(ctx, tx, c); err != nil {
			return err
		}
		changed = true
		v, err = m.readView(ctx, row)
		return err
	})
	if err == nil && changed {
		for _, name := range deposed {
			m.log.Warn("took over from an instance that stopped answering", "instance", name, "ttl", m.cfg.TTL)
		}
		m.announce(ctx)
	}
	if err == nil || errors.Is(err, driver.ErrDeposed) {
		return v, err
	}
	return v, m.failed("rebalance", err)
}

// apply carries out a plan, and returns the names of the instances that it has deposed.
func (m *member) apply(ctx context.Context, tx pgx.Tx, c changes) (deposed []string, err error) {
	if len(c.dead) > 0 {
		if deposed, err = m.depose(ctx, tx, c.dead); err != nil {
			return nil, err
		}
	}
	if len(c.shards) > 0 {
		shards, owners := make([]int16, 0, len(c.shards)), make([]int64, 0, len(c.shards))
		for shard, owner := range c.shards {
			shards, owners = append(shards, int16(shard)), append(owners, owner)
		}
		if _, err := tx.Exec(ctx, `
			UPDATE reactor.shards s SET owner = n.owner
			  FROM unnest($1::smallint[], $2::bigint[]) AS n (shard, owner) WHERE s.shard = n.shard`,
			shards, owners); err != nil {
			return nil, err
		}
	}
	// This waits for claims that hold the lane's row, but no longer than they take: depose has
	// terminated their backends.
	if len(c.adopt) > 0 {
		if _, err := tx.Exec(ctx, "UPDATE reactor.lanes SET owner = $1, epoch = greatest(epoch + 2, "+newEpoch+") WHERE lane = ANY ($2)", m.id, c.adopt); err != nil {
			return nil, err
		}
	}
	// Take the lowest free numbers. If somebody has deleted the row of a lane whose journal is not
	// empty, this creates the lane again, and with it the right to recover its journal.
	if c.create > 0 {
		if _, err := tx.Exec(ctx, `
			INSERT INTO reactor.lanes (lane, owner, epoch)
			SELECT n, $1, `+newEpoch+` FROM generate_series(1, $2 + (SELECT count(*) FROM reactor.lanes)) AS n
			 WHERE NOT EXISTS (SELECT FROM reactor.lanes WHERE lane = n)
			 ORDER BY n LIMIT $2`,
			m.id, c.create); err != nil {
			return nil, err
		}
	}
	_, err = tx.Exec(ctx, "SELECT "+noteMembershipSQL, txNames(tx).In(membershipChannel))
	return deposed, err
}

// newEpoch is the time in microseconds. An epoch is never used twice, even if a row of
// reactor.lanes was deleted, or a failover has brought back an older one: an instance that still
// works with its earlier lease would take that for the new one.
const newEpoch = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

// noteMembershipSQL announces a change of the membership over the WAL feed, in the transaction that makes it. If nobody
// decodes the server's log, the message costs a few bytes in it.
const noteMembershipSQL = "pg_catalog.pg_logical_emit_message(true, $1, '')"

// tellMembershipSQL announces it over the feed of notifications.
const tellMembershipSQL = "SELECT pg_catalog.pg_notify($1, '')"

// announce announces a change of the membership over the feed of notifications as well, because the instances may use
// different ones. It does so after the commit: when the server's queue of notifications is full, every transaction that
// has sent one fails, and then nobody would take over from anybody. If the announcement is lost, or we crash before it,
// the next beats of the others find the change.
func (m *member) announce(ctx context.Context) {
	if err := m.control.exec(ctx, tellMembershipSQL, m.names.In(membershipChannel)); err != nil {
		m.log.Debug("cannot announce a change of the membership", "err", err)
	}
}

// depose removes lapsed instances and terminates their connections, so that none of them holds
// locks while its process is stopped or unreachable. It returns their names. Our role may lack the right to terminate them;
// then the statement timeouts end what they hold.
func (m *member) depose(ctx context.Context, tx pgx.Tx, dead []int64) (names []string, err error) {
	rows, err := tx.Query(ctx, "DELETE FROM reactor.instances WHERE id = ANY ($1) RETURNING name, backends", dead)
	if err != nil {
		return nil, err
	}
	type gone struct{ Name, Backends string }
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[gone])
	if err != nil {
		return nil, err
	}
	for _, g := range list {
		names = append(names, g.Name)
		if g.Backends == m.backends {
			continue // an earlier incarnation of this very process
		}
		err := pgx.BeginFunc(ctx, tx, func(sub pgx.Tx) error {
			_, err := sub.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()", g.Backends)
			return err
		})
		if err != nil {
			m.log.Warn("cannot end the connections of an instance that stopped answering", "instance", g.Name, "err", err)
		}
	}
	// Their lanes get no owner, which every instance can see. A lane that is still locked by a
	// claim of a terminated backend keeps the dead owner's id; that is the id of no instance, and
	// means the same.
	_, err = tx.Exec(ctx, `
		UPDATE reactor.lanes SET owner = NULL
		 WHERE lane IN (SELECT lane FROM reactor.lanes WHERE owner = ANY ($1) FOR UPDATE SKIP LOCKED)`, dead)
	return names, err
}

func (m *member) holding(v view) driver.Holding {
	var h driver.Holding
	for shard, owner := range v.owners {
		if owner == m.id {
			h.Shards = h.Shards.With(uint8(shard))
		}
	}
	for _, l := range v.lanes {
		if l.owner == m.id {
			h.Leases = append(h.Leases, driver.Lease{
				Lane: l.lane, Owner: m.id, Epoch: l.epoch,
				ClientID: fmt.Sprint(m.clientIDPrefix, l.lane), Mark: l.mark,
			})
		}
	}
	return h
}

// ReleaseShards implements driver.Member. It also makes the instance a static one, so that no plan
// gives shards back to it.
func (m *member) ReleaseShards(ctx context.Context) error {
	return m.failed("release shards", m.withMembershipLock(ctx, `
		WITH me AS (UPDATE reactor.instances SET dynamic = false WHERE id = $2),
		     freed AS (UPDATE reactor.shards SET owner = NULL WHERE owner = $2)
		SELECT `+noteMembershipSQL))
}

// ReleaseLane implements driver.Member.
func (m *member) ReleaseLane(ctx context.Context, lease driver.Lease) error {
	return m.failed("release lane", m.control.exec(ctx, "UPDATE reactor.lanes SET owner = NULL WHERE lane = $1 AND owner = $2", lease.Lane, m.id))
}

// Leave implements driver.Member.
func (m *member) Leave(ctx context.Context) error {
	return m.failed("leave", m.withMembershipLock(ctx, `
		WITH gone AS (DELETE FROM reactor.instances WHERE id = $2),
		     shards AS (UPDATE reactor.shards SET owner = NULL WHERE owner = $2),
		     lanes AS (UPDATE reactor.lanes SET owner = NULL WHERE owner = $2)
		SELECT `+noteMembershipSQL))
}

// withMembershipLock runs a statement that releases something. It waits for the membership lock: a
// plan that was made before the release would give a part of it back to us.
func (m *member) withMembershipLock(ctx context.Context, sql string) error {
	err := m.underMembershipLock(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql, m.names.In(membershipChannel), m.id)
		return err
	})
	if err == nil {
		m.announce(ctx)
	}
	return err
}
