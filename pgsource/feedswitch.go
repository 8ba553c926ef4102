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

// FeedSwitch changes a deployment over from one feed to the other while it runs.
type FeedSwitch struct {
	DatabaseURL string
	// To is FeedWAL or FeedNotify.
	To Feed
	// Patience is how long the instances, and transactions that hold locks on the table, are
	// waited for. Defaults to a minute.
	Patience time.Duration
	// Tell is called with each step, in words. Optional.
	Tell func(step string)
}

// Run changes over. Nothing is lost or late meanwhile, for at each moment every instance has a
// feed that hears of everything:
//
//	what the new feed needs is created ─► the instances, which see both, begin with the new one
//	─► each says in its heartbeat that it has seen both, and that the new one stands
//	─► what the old one needs is dropped ─► the instances leave the old one
//
// That it stands is not enough: an instance may be about to leave it, after an earlier change.
//
// If we die between two steps the deployment has both, and works; running it again, in either
// direction, finishes it. An instance that cannot follow, or was told not to (Config.Feed), keeps
// the old feed in place: the error names it.
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
	return withConnection(ctx, w.DatabaseURL, false, func(conn *pgx.Conn) error {
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
		if err := patient(ctx, conn, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, "SELECT pg_catalog.clock_timestamp()").Scan(&since)
		}); err != nil {
			return err
		}
		// With what the new one needs once more: somebody may just have dropped it, on his way back.
		if err := w.step(ctx, conn, create+drop, since); err != nil {
			return err
		}
		w.Tell(dropped)
		return nil
	})
}

// mayReadWAL refuses what no instance could follow to.
func mayReadWAL(ctx context.Context, conn *pgx.Conn) error {
	var (
		level, standbys string
		slots, free     int
	)
	err := patient(ctx, conn, func(tx pgx.Tx) error {
		if err := script(ctx, tx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil {
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
	// switchLockPatience is how long a change of the table may wait for its lock: all claims
	// and inserts wait behind it.
	switchLockPatience = 20 * time.Millisecond
	// switchPause is the time between two tries, at first and at most.
	switchPause, mostSwitchPause = 200 * time.Millisecond, 2 * time.Second
)

// errFollowers are instances that do not hear by the new feed yet.
type errFollowers struct{ list []string }

func (e *errFollowers) Error() string { return strings.Join(e.list, "; ") }

// step runs a text in one transaction, as soon as it gets its locks and, if there is a time
// since which they have to have seen the new feed, all instances hear by it.
func (w FeedSwitch) step(ctx context.Context, conn *pgx.Conn, text string, since time.Time) error {
	deadline := time.Now().Add(w.Patience)
	said, pause := "", switchPause
	for {
		err := locked(ctx, conn, func(tx pgx.Tx) error {
			// What the role's search path leads to may be anybody's functions and operators. And
			// should we be cut off in here, nobody waits for our locks for long.
			if err := script(ctx, tx, fmt.Sprintf(`SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL lock_timeout = '%dms';
				SET LOCAL statement_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '1s'`, switchLockPatience.Milliseconds())); err != nil {
				return err
			}
			if !since.IsZero() {
				if err := w.followed(ctx, tx, since); err != nil {
					return err
				}
			}
			if err := script(ctx, tx, text); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, tellMembershipSQL, membershipChannel)
			return err
		})
		var missing *errFollowers
		var waits string
		switch {
		case err == nil:
			return nil
		case errors.As(err, &missing):
			waits = "waiting for " + missing.Error()
		case sqlState(err) == pgerrcode.LockNotAvailable:
			waits = "waiting for a transaction that holds a lock on the table"
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
		if missing == nil { // whoever waits for the table waits behind us each time
			pause = min(2*pause, mostSwitchPause)
		}
	}
}

func (w FeedSwitch) givenUp(missing *errFollowers) error {
	if missing == nil {
		return errors.New("a transaction holds a lock on the table of jobs for too long: end it (SELECT * FROM pg_stat_activity ORDER BY xact_start), and run this again")
	}
	back := FeedNotify
	if w.To == FeedNotify {
		back = FeedWAL
	}
	return fmt.Errorf("not all instances hear of new jobs by %s (%s), so that what they hear by now stays as well: put that right and run this again, or take it back with `reactor migrate feed %s`", w.To, missing, back)
}

// followed makes sure that every instance that lives stands on the new feed. It locks out those
// that are about to join: they come after us, and find the new feed alone.
func (w FeedSwitch) followed(ctx context.Context, tx pgx.Tx, since time.Time) error {
	if err := script(ctx, tx, "LOCK TABLE reactor.instances IN SHARE MODE"); err != nil {
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
	missing := &errFollowers{}
	for _, i := range list {
		heard := strings.Split(i.Feed, ",")
		stands := slices.Contains(heard, w.To.String())
		switch {
		case stands && i.Looked, slices.Contains(heard, FeedPoll.String()):
		case i.Old:
			missing.list = append(missing.list, i.Name+" is of an earlier version")
		case i.Problem != "":
			missing.list = append(missing.list, i.Name+": "+i.Problem)
		case stands:
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
