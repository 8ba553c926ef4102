package pgsource

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The questions about how instances learn of new jobs.

// triggers asks whether anything announces new jobs.
func (x *examination) triggers(ctx context.Context, p provision) {
	const check = "triggers"
	switch {
	case p.triggers && p.outdated:
		x.add(check, driver.Warning, "of an earlier version, which do not name shards: every instance reads for every INSERT", "run `reactor migrate up` as the owner of the database, when no instance of an earlier version runs any more")
		return
	case p.triggers:
		x.add(check, driver.Fine, "both are there and enabled", "")
		return
	case p.published:
		x.add(check, driver.Fine, "none: the table is published, and instances read the server's log", "")
		return
	case x.cfg.Feed == FeedPoll:
		x.add(check, driver.Fine, "none, and nobody needs them where pgsource.Config.Feed is FeedPoll", "")
		return
	}
	var disabled []string
	if err := x.background.row(ctx, "SELECT coalesce(array_agg(quote_ident(tgname)), '{}') FROM pg_trigger WHERE tgrelid = $1::regclass AND tgname IN ('reactor_jobs_inserted', 'reactor_jobs_updated') AND tgenabled NOT IN ('O', 'A')", []any{x.jobs().name}, &disabled); err != nil {
		x.failed(check, err)
		return
	}
	const harm = ": new jobs are found by the sweep only, seconds late"
	if len(disabled) > 0 {
		x.add(check, driver.Problem, "disabled: "+strings.Join(disabled, ", ")+harm, "as the owner of the table run ALTER TABLE "+x.jobs().name+" ENABLE TRIGGER "+strings.Join(disabled, ", ENABLE TRIGGER "))
		return
	}
	x.add(check, driver.Problem, "the table has neither both triggers nor complete publications"+harm, "run `reactor migrate feed notify` as the owner of the table, or `reactor migrate feed wal`")
}

// twoPhase asks whether applications may prepare transactions: PostgreSQL refuses that to one that has
// sent a notification.
func (x *examination) twoPhase(ctx context.Context, p provision) {
	const check = "two-phase commit"
	var most int
	err := x.ask(ctx, "SELECT current_setting('max_prepared_transactions')::int4", nil, &most)
	switch {
	case err != nil:
		x.failed(check, err)
	case most == 0:
		x.add(check, driver.Fine, "switched off in the server (max_prepared_transactions = 0), so nobody uses it", "")
	case p.triggers:
		x.add(check, driver.Warning, fmt.Sprintf("the server allows it (max_prepared_transactions = %d), but PREPARE TRANSACTION fails in a transaction that has inserted a job: its trigger has sent a NOTIFY", most),
			"if applications use it, have the instances read the server's log instead: `reactor migrate feed wal`")
	default:
		x.add(check, driver.Fine, "allowed, and no trigger is in its way", "")
	}
}

// others asks for triggers of others that run inside of claims.
func (x *examination) others(ctx context.Context) {
	list, err := x.triggersOfOthers(ctx)
	switch {
	case err != nil:
		x.failed("other triggers", err)
	case len(list) > 0:
		x.add("other triggers", driver.Warning, "run when a job is claimed, with the search path pg_catalog, and fail if they name a table without its schema: "+strings.Join(list, ", "), "run ALTER FUNCTION … SET search_path = … for each")
	default:
		x.add("other triggers", driver.Fine, "none that could make a claim fail", "")
	}
}

// notification sends one, and waits for it in the way in which an instance listens.
func (x *examination) notification(ctx context.Context, p provision) {
	const check = "notification"
	if x.cfg.Feed == FeedPoll || x.cfg.Feed == FeedWAL || x.cfg.Feed == FeedAuto && !p.triggers && p.published {
		x.add(check, driver.Fine, "not needed: instances do not listen", "")
		return
	}
	took, err := x.notify(ctx)
	switch {
	case errors.Is(err, errNoNotification), errors.Is(err, errPooledListener):
		x.problem(check, err)
	case err != nil:
		x.problem(check, fmt.Errorf("listen: %w", explain(err)))
	default:
		x.add(check, driver.Fine, fmt.Sprintf("arrives, after %v", took.Round(10*time.Microsecond)), "")
	}
}

var errNoNotification = fmt.Errorf("a notification does not arrive within %v: give the address of the same database, without a pooler, as pgsource.Config.ListenURL", examineTimeout)

func (x *examination) notify(ctx context.Context) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, examineTimeout, errNoNotification)
	defer cancel()
	conn, err := x.connectListener(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	channel, payload := x.names.In(probeChannel), rand.Text()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return 0, err
	}
	sent := time.Now()
	if err := x.background.exec(ctx, "SELECT pg_notify($1, $2)", channel, payload); err != nil {
		return 0, err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		switch {
		case err != nil && errors.Is(context.Cause(ctx), errNoNotification):
			return 0, errNoNotification
		case err != nil:
			return 0, err
		case n.Payload == payload: // others probe the same channel
			return time.Since(sent), nil
		}
	}
}

// walFeed asks whether instances could read the server's log. That is a problem only where they have to.
func (x *examination) walFeed(ctx context.Context, p provision) {
	const check = "WAL feed"
	needed := x.cfg.Feed == FeedWAL || x.cfg.Feed == FeedAuto && !p.triggers && p.published
	obstacle, err := x.tryReplication(ctx)
	if err == nil && obstacle == nil && needed && !p.published {
		obstacle = fmt.Errorf("the table %s is not published: run `reactor migrate feed wal` as the owner of the database and the table", x.jobs().name)
	}
	switch {
	case err != nil:
		x.failed(check, err)
	case obstacle != nil && needed:
		x.problem(check, obstacle)
	case obstacle != nil:
		f := driver.FindingOf(check, driver.Fine, obstacle)
		x.add(check, driver.Fine, "not possible, and not needed: "+f.What, "")
	case needed:
		x.add(check, driver.Fine, "possible, and the table is published", "")
	default:
		x.add(check, driver.Fine, "possible; `reactor migrate feed wal` would switch to it", "")
	}
}
