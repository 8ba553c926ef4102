package pgsource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Membership without a leader: every instance beats, and whoever's beat sees that
// something has no living owner, or that the shares are unfair, puts it right for
// everybody, under one transaction-level advisory lock (a session's would vanish at
// a failover and under a pooler).
//
//	        Join                    Leave
//	absent ──────► living ────────────────────► absent
//	                │  ▲
//	   no beat for  │  │ beat
//	   a whole TTL  ▼  │                another one's beat
//	               lapsed ────────────────────► deposed: Beat returns ErrDeposed
//
// An instance whose database session is gone as well, as that of a killed process is at
// once, has lapsed after half a TTL. That may be a mistake: its connection may have been
// cut, and the next one not made yet. A mistake costs the instance a new beginning and
// nothing else, for what it still does is void by its id and the lanes' epochs.
//
// Who judges must have been beating without a gap for as long as it holds against the
// other. After an outage or a stall of the database every heartbeat is old, first come
// must not be first served.
//
// The database's clock may be set back, by hand or by a failover to a server whose clock is
// behind. The heartbeats from before lie in the future then, and those of the dead would look
// fresh until the clock has caught up. So a beat brings what lies in the future back to now:
// who lives beats again, and who does not lapses from there.

// membershipLock is the key of the advisory lock, "reactor" in ASCII.
const membershipLock = 0x72656163746f72

// member is one incarnation.
type member struct {
	*Source
	id        int64
	wantLanes int
}

// Join implements driver.Source.
func (s *Source) Join(ctx context.Context, opts driver.JoinOptions) (driver.Member, error) {
	m := &member{Source: s, id: rand.Int64N(1<<62) + 1, wantLanes: opts.Lanes}
	// Through the pool whose commits are durable: a crash of Postgres must not make
	// it look as if we had been deposed.
	err := s.work.exec(ctx, "INSERT INTO reactor.instances (id, name, backends, dynamic, feed) VALUES ($1, $2, $3, $4, '')",
		m.id, s.cfg.Name, s.backends, opts.Static == 0)
	if err != nil {
		return nil, s.failed("join", err)
	}
	return m, nil
}

// TTL implements driver.Member.
func (m *member) TTL() time.Duration { return m.cfg.TTL }

// WantLanes implements driver.Member.
func (m *member) WantLanes(n int) { m.wantLanes = n }

// beatSQL renews the heartbeat and returns the whole, small, membership. A beat that
// comes late, or before the last one, starts the steady time anew. Of the others' heartbeats
// those are left alone that their owners are just renewing.
//
// The journal is looked at for lanes without a living owner alone: what somebody's old
// snapshot keeps of it would make every beat slower, until they lapse. An EXISTS would be
// answered by a table of all that is in the journal. A backend of 0 is
// one that says nothing of its instance: a pooler's. The feed is for whoever changes the
// deployment over (feedswitch.go).
const beatSQL = `
WITH beat AS (
    UPDATE reactor.instances
       SET heartbeat_at = clock_timestamp(), feed = $4, feed_problem = nullif($5, ''), feed_chosen_at = $6, backend = CASE WHEN $3 THEN 0 ELSE pg_backend_pid() END,
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
               THEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = backend)
               ELSE false END AS lapsed
      FROM reactor.instances, beat
), lanes AS (
    SELECT lane, coalesce(owner, 0) AS owner, epoch, coalesce(mark, '') AS mark,
           CASE WHEN EXISTS (SELECT FROM members WHERE id = owner AND NOT lapsed) THEN false
                ELSE coalesce((SELECT true FROM reactor.in_flight f WHERE f.lane = l.lane LIMIT 1), false) END AS journaled
      FROM reactor.lanes l
)
SELECT EXISTS (SELECT FROM beat),
       ARRAY(SELECT id FROM members ORDER BY id), ARRAY(SELECT lapsed FROM members ORDER BY id),
       ARRAY(SELECT dynamic FROM members ORDER BY id),
       ARRAY(SELECT coalesce(owner, 0) FROM reactor.shards ORDER BY shard),
       ARRAY(SELECT lane FROM lanes ORDER BY lane), ARRAY(SELECT owner FROM lanes ORDER BY lane),
       ARRAY(SELECT epoch FROM lanes ORDER BY lane), ARRAY(SELECT mark FROM lanes ORDER BY lane),
       ARRAY(SELECT journaled FROM lanes ORDER BY lane)`

// Beat implements driver.Member.
func (m *member) Beat(ctx context.Context) (driver.Holding, error) {
	v, err := m.look(ctx, m.control.row)
	if err != nil {
		return driver.Holding{}, err
	}
	if c := plan(v, m.id, m.wantLanes); !c.empty() {
		if v, err = m.rebalance(ctx, v); err != nil {
			return driver.Holding{}, err
		}
	}
	m.tend(ctx)
	return m.holding(v), nil
}

// rowReader runs a statement that returns one row: a database's, or a transaction's.
type rowReader func(ctx context.Context, sql string, args []any, into ...any) error

func (m *member) look(ctx context.Context, row rowReader) (view, error) {
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
	err := row(ctx, beatSQL, []any{m.id, interval(m.cfg.TTL), m.pooled, feed, problem, dbTime{chose}},
		&known, &ids, &lapsed, &dynamic, &shardOwners, &lanes, &owners, &epochs, &marks, &journaled)
	if err != nil {
		return v, m.failed("heartbeat", err)
	}
	if !known { // no row of ours was there to update
		return v, driver.ErrDeposed
	}
	for i, id := range ids {
		v.instances = append(v.instances, instance{id: id, lapsed: lapsed[i], dynamic: dynamic[i]})
	}
	if len(shardOwners) != driver.Shards {
		return v, fmt.Errorf("reactor.shards has %d rows instead of %d: run sql/schema.sql again", len(shardOwners), driver.Shards)
	}
	copy(v.owners[:], shardOwners)
	for i, lane := range lanes {
		v.lanes = append(v.lanes, laneRow{lane: lane, owner: owners[i], epoch: epochs[i], mark: marks[i], journaled: journaled[i]})
	}
	return v, nil
}

// rebalance carries the plan out, made anew under the lock. If another instance
// holds the lock it is doing the same, and will tell us. The transaction does all
// or nothing; dying around it leaves a membership that the next beat puts right.
func (m *member) rebalance(ctx context.Context, v view) (view, error) {
	err := m.control.tx(ctx, func(tx pgx.Tx) error {
		row := func(ctx context.Context, sql string, args []any, into ...any) error {
			return tx.QueryRow(ctx, sql, args...).Scan(into...)
		}
		var locked bool
		// Ownership, unlike a heartbeat, must survive a crash of Postgres: an epoch that
		// went back would bring dead leases to life.
		_, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on")
		if err == nil {
			err = tx.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock($1)", int64(membershipLock)).Scan(&locked)
		}
		if err != nil || !locked {
			return err
		}
		if v, err = m.look(ctx, row); err != nil {
			return err
		}
		c := plan(v, m.id, m.wantLanes)
		if c.empty() {
			return nil
		}
		if err := m.apply(ctx, tx, c); err != nil {
			return err
		}
		v, err = m.look(ctx, row)
		return err
	})
	if err == nil || errors.Is(err, driver.ErrDeposed) {
		return v, err
	}
	return v, m.failed("rebalance", err)
}

func (m *member) apply(ctx context.Context, tx pgx.Tx, c changes) error {
	if len(c.dead) > 0 {
		if err := m.depose(ctx, tx, c.dead); err != nil {
			return err
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
			return err
		}
	}
	// This waits for claims that hold the lane's row, and no longer than they take:
	// their backends were cut off above.
	if len(c.adopt) > 0 {
		if _, err := tx.Exec(ctx, "UPDATE reactor.lanes SET owner = $1, epoch = epoch + 1 WHERE lane = ANY ($2)", m.id, c.adopt); err != nil {
			return err
		}
	}
	// The lowest numbers that are free. If somebody has deleted a lane whose journal holds
	// something, it is this that brings it back, and with it what it holds.
	if c.create > 0 {
		if _, err := tx.Exec(ctx, `
			INSERT INTO reactor.lanes (lane, owner, epoch)
			SELECT n, $1, 1 FROM generate_series(1, $2 + (SELECT count(*) FROM reactor.lanes)) AS n
			 WHERE NOT EXISTS (SELECT FROM reactor.lanes WHERE lane = n)
			 ORDER BY n LIMIT $2`,
			m.id, c.create); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, tellMembershipSQL, membershipChannel)
	return err
}

// tellMembershipSQL tells the others, over both feeds: they need not have the same. Where
// the server's log is not decoded by anybody, the message in it is a few bytes. Both go with the
// commit of what they tell of, or not at all; if they are lost the next beat finds the same.
const tellMembershipSQL = "SELECT pg_catalog.pg_notify($1, ''), pg_catalog.pg_logical_emit_message(true, $1, '')"

// depose removes lapsed instances and cuts off their connections, so that none of
// them holds locks while its process is stopped or unreachable. Cutting off may lack
// the right; then the statement timeouts have to do.
func (m *member) depose(ctx context.Context, tx pgx.Tx, dead []int64) error {
	rows, err := tx.Query(ctx, "DELETE FROM reactor.instances WHERE id = ANY ($1) RETURNING name, backends", dead)
	if err != nil {
		return err
	}
	type gone struct{ Name, Backends string }
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[gone])
	if err != nil {
		return err
	}
	for _, g := range list {
		m.log.Warn("took over from an instance that stopped answering", "instance", g.Name, "ttl", m.cfg.TTL)
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
	// Their lanes are nobody's, as anyone can see. One that is locked by a claim about to
	// be cut off keeps the dead name, which is no instance's and means the same.
	_, err = tx.Exec(ctx, `
		UPDATE reactor.lanes SET owner = NULL
		 WHERE lane IN (SELECT lane FROM reactor.lanes WHERE owner = ANY ($1) FOR UPDATE SKIP LOCKED)`, dead)
	return err
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

// ReleaseShards implements driver.Member. As a static instance from here on, we
// get none back.
func (m *member) ReleaseShards(ctx context.Context) error {
	return m.failed("release shards", m.quit(ctx, `
		WITH me AS (UPDATE reactor.instances SET dynamic = false WHERE id = $1),
		     freed AS (UPDATE reactor.shards SET owner = NULL WHERE owner = $1)
		SELECT pg_notify($2, ''), pg_logical_emit_message(true, $2, '')`))
}

// ReleaseLane implements driver.Member.
func (m *member) ReleaseLane(ctx context.Context, lease driver.Lease) error {
	return m.failed("release lane", m.control.exec(ctx, "UPDATE reactor.lanes SET owner = NULL WHERE lane = $1 AND owner = $2", lease.Lane, m.id))
}

// Leave implements driver.Member.
func (m *member) Leave(ctx context.Context) error {
	return m.failed("leave", m.quit(ctx, `
		WITH gone AS (DELETE FROM reactor.instances WHERE id = $1),
		     shards AS (UPDATE reactor.shards SET owner = NULL WHERE owner = $1),
		     lanes AS (UPDATE reactor.lanes SET owner = NULL WHERE owner = $1)
		SELECT pg_notify($2, ''), pg_logical_emit_message(true, $2, '')`))
}

// quit runs a statement that gives things up, after whoever is distributing them: a plan
// from before it would give us some back.
func (m *member) quit(ctx context.Context, sql string) error {
	return m.control.tx(ctx, func(tx pgx.Tx) error {
		// Durable, so that those who read the log hear of it at once.
		if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(membershipLock)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sql, m.id, membershipChannel)
		return err
	})
}
