package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/lab/internal/deploy"
)

// blockedRows is a time in which rows of some topics could not be changed. It has no begin: a
// job that was due before may still be waiting.
type blockedRows struct {
	topics []string
	to     time.Time // zero: until the end of the run
}

// obstacle is a constraint or a trigger that prevents changes of rows.
type obstacle struct {
	name    string
	trigger string // the body of the trigger's function; "" for a constraint
}

// obstacles are all kinds. A CHECK that is added NOT VALID is not checked for existing rows, but it
// is checked when such a row is changed. The triggers are such as an application may have.
var obstacles = []obstacle{
	{"a CHECK that is not valid", ""},
	{"a trigger that raises", "RAISE EXCEPTION 'the application forbids to change job %', OLD.id"},
	{"a trigger that misses a table", "PERFORM * FROM public.nowhere"},
	{"a trigger that puts the mark back", "NEW.processed := OLD.processed; RETURN NEW"},
	{"a trigger that takes the signature away", "NEW.claim := OLD.claim; RETURN NEW"},
	{"a trigger that silently keeps the row", "RETURN NULL"},
	{"a trigger that ends the session", "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1)"},
}

// drawRows makes the rows of one or two topics impossible to claim for a while.
func drawRows(r draw) action {
	what, hold := obstacles[r.IntN(len(obstacles))], r.duration(2*time.Second, 8*time.Second)
	topics := []string{fmt.Sprint("chaos/", r.IntN(50))}
	if r.IntN(3) == 0 {
		topics = append(topics, fmt.Sprint("chaos/", r.IntN(50)))
	}
	return action{fmt.Sprintf("%s: %s, for %v", strings.Join(topics, ", "), what.name, hold), func(ctx context.Context, d *deployment) error {
		if !d.blocking.TryLock() {
			return errBusy
		}
		defer d.blocking.Unlock()
		d.mu.Lock()
		d.blocked = append(d.blocked, blockedRows{topics: topics})
		at := len(d.blocked) - 1
		d.mu.Unlock()
		err := d.blockRows(ctx, what, topics)
		if err == nil {
			deploy.Sleep(ctx, hold)
		}
		if err := d.unblockRows(context.WithoutCancel(ctx)); err != nil {
			return err // the server may be down or read-only; then heal does it later
		}
		d.mu.Lock()
		d.blocked[at].to = time.Now()
		d.mu.Unlock()
		return err
	}}
}

// blockRows makes rows of some topics impossible to change. The topics are ours and contain no
// quotes, so they need no escaping.
func (d *deployment) blockRows(ctx context.Context, what obstacle, topics []string) error {
	list := "'" + strings.Join(topics, "', '") + "'"
	if what.trigger != "" {
		return d.exec(ctx, d.adminURL, "SET lock_timeout = '3s'",
			`CREATE OR REPLACE FUNCTION public.forbid_change() RETURNS trigger LANGUAGE plpgsql AS
			 $$ BEGIN `+what.trigger+`; END $$`,
			`CREATE TRIGGER forbid_change BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.topic IN (`+list+`))
			 EXECUTE FUNCTION public.forbid_change()`)
	}
	conn, err := pgx.Connect(ctx, d.adminURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var last int64 // rows with higher ids can still be inserted
	if err := conn.QueryRow(ctx, "SELECT coalesce(max(id), 0) FROM jobs").Scan(&last); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "SET lock_timeout = '3s'"); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, fmt.Sprintf(
		"ALTER TABLE jobs ADD CONSTRAINT forbid_change CHECK (topic NOT IN (%s) OR id > %d) NOT VALID", list, last))
	return err
}

// unblockRows ends what blockRows has done.
func (d *deployment) unblockRows(ctx context.Context) error {
	return d.exec(ctx, d.adminURL,
		"ALTER TABLE jobs DROP CONSTRAINT IF EXISTS forbid_change", "DROP TRIGGER IF EXISTS forbid_change ON jobs")
}

// mayFail reports whether a job may end as failed, with a reason: it was due before the rows of
// its topic could be changed again. It may also be published instead, once.
func (d *deployment) mayFail(topic string, fireAt time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.blocked {
		// A claim takes jobs some tens of milliseconds before they are due.
		if slices.Contains(p.topics, topic) && (p.to.IsZero() || fireAt.Before(p.to.Add(time.Second))) {
			return true
		}
	}
	return false
}

// wasBlocked reports whether rows of a topic could not be changed at some time of the run.
func (d *deployment) wasBlocked(topic string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.blocked, func(p blockedRows) bool { return slices.Contains(p.topics, topic) })
}

// refusedTopics is the prefix of topics to which the broker refuses all messages.
const refusedTopics = "refused/"

// drawLockJob locks the rows of jobs that are claimed and not settled. The broker refuses some of
// them, and the instance cannot return these to the table because of the lock. The broker's answers
// to one instance are stalled until the rows are locked, so that its jobs stay claimed long enough.
func drawLockJob(r draw) action {
	i, refused := r.instance(), 5+r.IntN(60)
	pause, hold := r.duration(100*time.Millisecond, 500*time.Millisecond), r.duration(time.Second, 6*time.Second)
	return action{
		fmt.Sprintf("%d refused jobs, and what instance %d has claimed is locked for %v", refused, i, hold),
		func(ctx context.Context, d *deployment) error {
			link := d.instances[i].broker
			link.Stall(netfault.ToClient)
			defer link.Resume(netfault.ToClient)
			if err := d.load.refused(ctx, refused); err != nil {
				return err
			}
			deploy.Sleep(ctx, pause)
			return d.holdRows(ctx, hold, func() { link.Resume(netfault.ToClient) })
		},
	}
}

// holdRows locks the rows that were claimed in the last 2 s, calls locked, and unlocks the rows
// after a while.
func (d *deployment) holdRows(ctx context.Context, hold time.Duration, locked func()) error {
	conn, err := pgx.Connect(ctx, d.adminURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `SELECT FROM jobs WHERE processed AND processed_at > clock_timestamp() - interval '2 s' FOR UPDATE SKIP LOCKED`)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.rowsLocked += int(tag.RowsAffected())
	d.mu.Unlock()
	locked()
	deploy.Sleep(ctx, hold)
	return tx.Rollback(context.WithoutCancel(ctx))
}
