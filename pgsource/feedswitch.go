package pgsource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// FeedSwitch changes a running deployment from one feed to the other.
type FeedSwitch struct {
	// DatabaseURL is a connection string of the owner of the table. See Config.DatabaseURL.
	DatabaseURL string
	// Names are those of the deployment.
	Names Names
	// To is FeedWAL or FeedNotify.
	To Feed
	// Patience is how long Run waits for the instances, and for transactions that hold locks on the
	// table. Defaults to one minute.
	Patience time.Duration
	// Tell is called after each step, with a text that describes it. Optional.
	Tell func(step string)
}

// Run changes over. No job is lost or late meanwhile: at each moment every instance has a feed that
// announces every job.
//
//	create what the new feed needs ─► the instances see both feeds and begin with the new one
//	─► each reports in its heartbeat that it has seen both, and that the new one is established
//	─► drop what the old feed needs ─► the instances end the old feed
//
// It is not enough that the new feed is established: an instance may be about to end it, after an
// earlier change.
//
// If we crash between two steps, the deployment has both feeds and works. Running it again, in
// either direction, completes the change. If an instance cannot follow, or its Config.Feed is not
// FeedAuto, the old feed stays, and the error names the instance.
func (w FeedSwitch) Run(ctx context.Context) error {
	if w.To != FeedWAL && w.To != FeedNotify {
		return &driver.ConfigError{Field: "To", Value: w.To, Problem: "must be wal or notify"}
	}
	setDefault(&w.Patience, time.Minute)
	if w.Tell == nil {
		w.Tell = func(string) {}
	}
	create, created, drop, dropped := schema.PublicationsUp, "the table is published", schema.TriggersDown, "the triggers are dropped"
	if w.To == FeedNotify {
		create, created, drop, dropped = schema.TriggersUp, "the triggers are there", schema.PublicationsDown, "the publications are dropped"
	}
	return withConnection(ctx, w.DatabaseURL, w.Names, false, func(conn *pgx.Conn) error {
		if w.To == FeedWAL {
			if err := mayReadWAL(ctx, conn); err != nil {
				return err
			}
		}
		if err := w.step(ctx, conn, create, time.Time{}); err != nil {
			return err
		}
		w.Tell(created)
		var since time.Time
		if err := inMigrationTx(ctx, conn, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, "SELECT pg_catalog.clock_timestamp()").Scan(&since)
		}); err != nil {
			return err
		}
		// Create what the new feed needs once more: somebody may just have dropped it, while
		// changing back.
		if err := w.step(ctx, conn, create+drop, since); err != nil {
			return err
		}
		w.Tell(dropped)
		return nil
	})
}

// mayReadWAL refuses a server whose WAL no instance could read.
func mayReadWAL(ctx context.Context, conn *pgx.Conn) error {
	var (
		level, standbys string
		slots, free     int
	)
	err := inMigrationTx(ctx, conn, func(tx pgx.Tx) error {
		if err := execScript(ctx, tx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, walServerSQL).Scan(&level, &standbys, &slots, &free)
	})
	if err == nil {
		err = walServerObstacle(level, standbys)
	}
	return err
}

const (
	// switchLockTimeout is how long a change of the table may wait for its lock: all claims and
	// inserts wait behind it.
	switchLockTimeout = 20 * time.Millisecond
	// switchPause is the first pause between two attempts, and mostSwitchPause the longest.
	switchPause, mostSwitchPause = 200 * time.Millisecond, 2 * time.Second
)

// laggingInstances names the instances that do not use the new feed yet. It is an error.
type laggingInstances struct{ list []string }

func (e *laggingInstances) Error() string { return strings.Join(e.list, "; ") }

// step runs a text in one transaction, as soon as it gets its locks. With a time since given, it
// also waits until all instances use the new feed, and have checked the table after that time.
func (w FeedSwitch) step(ctx context.Context, conn *pgx.Conn, text string, since time.Time) error {
	deadline := time.Now().Add(w.Patience)
	said, pause := "", switchPause
	var channel string
	for {
		err := inLockedMigrationTx(ctx, conn, func(tx pgx.Tx) error {
			// The role's search path may lead to functions and operators of anybody. The timeouts
			// bound how long others wait for our locks if our connection breaks here.
			if err := execScript(ctx, tx, fmt.Sprintf(`SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL lock_timeout = '%dms';
				SET LOCAL statement_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '1s'`, switchLockTimeout.Milliseconds())); err != nil {
				return err
			}
			if !since.IsZero() {
				if err := w.requireNewFeed(ctx, tx, since); err != nil {
					return err
				}
			}
			if err := execScript(ctx, tx, text); err != nil {
				return err
			}
			if w.To == FeedNotify {
				if err := suitOldInstances(ctx, tx); err != nil {
					return err
				}
			}
			channel = txNames(tx).In(membershipChannel)
			_, err := tx.Exec(ctx, "SELECT "+noteMembershipSQL, channel)
			return err
		})
		var missing *laggingInstances
		var waits string
		switch {
		case err == nil:
			// After the commit, and whatever becomes of it: see announce.
			_, _ = conn.Exec(ctx, tellMembershipSQL, channel)
			return nil
		case errors.As(err, &missing):
			waits = "waiting for " + missing.Error()
		case sqlState(err) == pgerrcode.LockNotAvailable:
			waits = "waiting for a transaction that holds a lock on the table"
		case sqlState(err) == pgerrcode.InsufficientPrivilege:
			return explained(err, "this role may not change how new jobs are announced (%s): run this as the owner of the table and of its publications, or let `reactor migrate up --roles`, run by a superuser, give both to one role", statementText(err))
		default:
			return err
		}
		if time.Now().After(deadline) {
			return w.givenUp(missing)
		}
		if waits != said {
			said = waits
			w.Tell(waits)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		if missing == nil { // each attempt makes others wait behind us for the table
			pause = min(2*pause, mostSwitchPause)
		}
	}
}

func (w FeedSwitch) givenUp(missing *laggingInstances) error {
	if missing == nil {
		return errors.New("a transaction holds a lock on the table of jobs for too long: end it (SELECT * FROM pg_stat_activity ORDER BY xact_start), and run this again")
	}
	back := FeedNotify
	if w.To == FeedNotify {
		back = FeedWAL
	}
	return fmt.Errorf("not all instances use the feed %s (%s), so the old feed stays as well: correct that and run this again, or change back with `reactor migrate feed %s`", w.To, missing, back)
}

// requireNewFeed makes sure that every living instance uses the new feed. It blocks instances that
// are about to join: they join after us, and find the new feed alone.
func (w FeedSwitch) requireNewFeed(ctx context.Context, tx pgx.Tx, since time.Time) error {
	if err := execScript(ctx, tx, "LOCK TABLE reactor.instances IN SHARE MODE"); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		SELECT name, coalesce(feed, 'notify'), feed IS NULL, coalesce(feed_problem, ''), coalesce(feed_chosen_at > $1, false) FROM reactor.instances
		 WHERE heartbeat_at > clock_timestamp() - interval '10 seconds' ORDER BY name`, since)
	if err != nil {
		return err
	}
	type instance struct {
		Name, Feed string
		Old        bool
		Problem    string
		Looked     bool
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[instance])
	if err != nil {
		return err
	}
	missing := &laggingInstances{}
	for _, i := range list {
		heard := strings.Split(i.Feed, ",")
		established := slices.Contains(heard, w.To.String())
		switch {
		case established && i.Looked, slices.Contains(heard, FeedPoll.String()):
		case i.Old:
			missing.list = append(missing.list, i.Name+" is of an earlier version")
		case i.Problem != "":
			missing.list = append(missing.list, i.Name+": "+i.Problem)
		case established:
			missing.list = append(missing.list, i.Name+" has not looked yet")
		case i.Feed == "":
			missing.list = append(missing.list, i.Name+" has no feed at the moment")
		default:
			missing.list = append(missing.list, i.Name+" hears by "+i.Feed)
		}
	}
	if len(missing.list) > 0 {
		return missing
	}
	return nil
}
