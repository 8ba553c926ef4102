package pgsource

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// The lock of the membership is that of a row, the first of reactor.shards. Only roles that may UPDATE that table can
// take it. Versions up to 0.1 used an advisory lock instead, and every user who may connect to the database can take
// its key: then no instance took over from another one.
//
// Nobody changes the row without the lock, neither by hand, so no transaction of an operator keeps it. Readers do not
// wait for it. It ends with its transaction, so a failover, a pooler and a lost connection release it, and
// idle_in_transaction_session_timeout does if its holder freezes. It is always the first lock of its transaction,
// so it is in no deadlock.
//
// Instances of those versions may run beside this one during an upgrade. So the advisory lock is taken as well, but
// never waited for. If somebody has it, it counts what that role may do: one that may change the shares is an
// instance and is respected; everybody else is ignored. A role cannot pretend to be another one.

// membershipLock is the key of the advisory lock, "reactor" in ASCII.
const membershipLock = 0x72656163746f72

// lockMembershipSQL locks the row, and then returns whether an instance of an earlier version leaves us alone. If
// {unless} is SKIP LOCKED and another instance has the row, it returns no row at once, without an error that the
// server would log. If nobody is seen any more who has the advisory lock, it has just been released, and the next
// one to have it is not us. A prepared transaction has no process, and is none of an instance. pg_locks shows a key in two halves. The subquery is evaluated before the rest, because it locks.
const lockMembershipSQL = `
SELECT CASE WHEN pg_try_advisory_xact_lock($1::bigint) THEN true ELSE coalesce((
           SELECT bool_and(NOT coalesce(has_table_privilege(a.usesysid, 'reactor.shards', 'UPDATE'), false))
             FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
            WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $2::oid AND l.objid = $3::oid AND l.objsubid = 1
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())), false) END
  FROM (SELECT FROM reactor.shards WHERE shard = 0 FOR UPDATE`

// tryMembershipLock takes the lock of the membership until the end of the transaction, unless somebody has it.
func tryMembershipLock(ctx context.Context, tx pgx.Tx) (locked bool, err error) {
	locked, err = lockMembership(ctx, tx, lockMembershipSQL+" SKIP LOCKED) AS held")
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil // somebody has it; if the row is missing, the next heartbeat says so
	}
	return locked, err
}

// waitForMembershipLock is tryMembershipLock, and waits for another instance of this version.
func waitForMembershipLock(ctx context.Context, tx pgx.Tx) (locked bool, err error) {
	locked, err = lockMembership(ctx, tx, lockMembershipSQL+") AS held")
	if errors.Is(err, pgx.ErrNoRows) {
		return false, explained(err, "reactor.shards has lost the row of shard 0: %s", runRepair)
	}
	return locked, err
}

func lockMembership(ctx context.Context, tx pgx.Tx, sql string) (locked bool, err error) {
	key := txNames(tx).Lock(membershipLock)
	err = tx.QueryRow(ctx, sql, key, uint32(uint64(key)>>32), uint32(key)).Scan(&locked)
	return locked, err
}

// errEarlierVersion: an instance of an earlier version has its lock.
var errEarlierVersion = errors.New("an instance of an earlier version is distributing shards and lanes")

const (
	// earlierPause is the pause before the next attempt to have the lock while an instance of an earlier version has
	// its own, and earlierPatience ends the attempts. That instance needs milliseconds.
	earlierPause, earlierPatience = 20 * time.Millisecond, 2 * time.Second
)

// underMembershipLock runs a transaction under the lock, and waits for it. Each attempt is a transaction, because an
// instance of an earlier version may wait for the row while it holds the other lock.
func (s *Source) underMembershipLock(ctx context.Context, do func(pgx.Tx) error) error {
	for begun := time.Now(); ; {
		err := s.control.tx(ctx, func(tx pgx.Tx) error {
			// A crash of the server must not undo what is done under the lock: see rebalance.
			if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on"); err != nil {
				return err
			}
			locked, err := waitForMembershipLock(ctx, tx)
			switch {
			case err != nil:
				return err
			case !locked:
				return errEarlierVersion
			}
			return do(tx)
		})
		if !errors.Is(err, errEarlierVersion) || time.Since(begun) > earlierPatience {
			return err
		}
		timer := time.NewTimer(earlierPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}
