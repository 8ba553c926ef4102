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

// poison is a while in which rows of some topics could not be changed.
type poison struct {
	topics []string
	to     time.Time // zero: it lasts
}

// obstacle is what keeps rows from being changed.
type obstacle struct {
	name    string
	trigger string // the body of its function; "": a constraint
}

// obstacles are the kinds that there are. A CHECK that was added NOT VALID is violated by rows
// of before, and a change checks it. The triggers are the application's.
var obstacles = []obstacle{
	{"a CHECK that is not valid", ""},
	{"a trigger that raises", "RAISE EXCEPTION 'the application forbids to change job %', OLD.id"},
	{"a trigger that misses a table", "PERFORM * FROM public.nowhere"},
	{"a trigger that puts the mark back", "NEW.processed := OLD.processed; RETURN NEW"},
	{"a trigger that takes the signature away", "NEW.claim := OLD.claim; RETURN NEW"},
	{"a trigger that silently keeps the row", "RETURN NULL"},
	{"a trigger that ends the session", "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1)"},
}

// drawRows makes rows of a topic or two that cannot be claimed, for a while.
func drawRows(d draw) action {
	what, hold := obstacles[d.IntN(len(obstacles))], d.duration(2*time.Second, 8*time.Second)
	topics := []string{fmt.Sprint("chaos/", d.IntN(50))}
	if d.IntN(3) == 0 {
		topics = append(topics, fmt.Sprint("chaos/", d.IntN(50)))
	}
	return action{fmt.Sprintf("%s: %s, for %v", strings.Join(topics, ", "), what.name, hold), func(ctx context.Context, w *world) error {
		if !w.poisoning.TryLock() {
			return errBusy
		}
		defer w.poisoning.Unlock()
		w.mu.Lock()
		w.poisons = append(w.poisons, poison{topics: topics})
		at := len(w.poisons) - 1
		w.mu.Unlock()
		err := w.poison(ctx, what, topics)
		if err == nil {
			deploy.Sleep(ctx, hold)
		}
		if err := w.cure(context.WithoutCancel(ctx)); err != nil {
			return err // the server may be down, or read-only; heal does it again
		}
		w.mu.Lock()
		w.poisons[at].to = time.Now()
		w.mu.Unlock()
		return err
	}}
}

// poison: the topics are ours, and need no quoting but the marks.
func (w *world) poison(ctx context.Context, what obstacle, topics []string) error {
	list := "'" + strings.Join(topics, "', '") + "'"
	if what.trigger != "" {
		return w.exec(ctx, w.adminURL, "SET lock_timeout = '3s'",
			`CREATE OR REPLACE FUNCTION public.forbid_change() RETURNS trigger LANGUAGE plpgsql AS
			 $$ BEGIN `+what.trigger+`; END $$`,
			`CREATE TRIGGER forbid_change BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.topic IN (`+list+`))
			 EXECUTE FUNCTION public.forbid_change()`)
	}
	conn, err := pgx.Connect(ctx, w.adminURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var last int64 // later ones must be insertable
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

// cure ends every poison.
func (w *world) cure(ctx context.Context) error {
	return w.exec(ctx, w.adminURL,
		"ALTER TABLE jobs DROP CONSTRAINT IF EXISTS forbid_change", "DROP TRIGGER IF EXISTS forbid_change ON jobs")
}

// mayFail reports whether a job may end as failed, with its reason: it was due while rows
// of its topic could not be changed. It may be published as well, once.
func (w *world) mayFail(topic string, fireAt time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.poisons {
		// A claim looks ahead by some tens of milliseconds.
		if slices.Contains(p.topics, topic) && (p.to.IsZero() || fireAt.Before(p.to.Add(time.Second))) {
			return true
		}
	}
	return false
}

// isPoisoned reports whether rows of a topic could not be changed at any time.
func (w *world) isPoisoned(topic string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.poisons, func(p poison) bool { return slices.Contains(p.topics, topic) })
}

// refusedTopics are those that the broker lets nobody publish to.
const refusedTopics = "refused/"

// drawLockJob locks the rows of jobs while they are on their way, some of which the broker
// then refuses: handing those back meets the lock. An instance's answers from the broker are
// held up meanwhile, so that what it has claimed stays on its way long enough.
func drawLockJob(d draw) action {
	i, refused := d.instance(), 5+d.IntN(60)
	pause, hold := d.duration(100*time.Millisecond, 500*time.Millisecond), d.duration(time.Second, 6*time.Second)
	return action{
		fmt.Sprintf("%d refused jobs, and what instance %d has claimed is locked for %v", refused, i, hold),
		func(ctx context.Context, w *world) error {
			link := w.instances[i].broker
			link.Stall(netfault.ToClient)
			defer link.Resume(netfault.ToClient)
			if err := w.load.refused(ctx, refused); err != nil {
				return err
			}
			deploy.Sleep(ctx, pause)
			return w.holdRows(ctx, hold, func() { link.Resume(netfault.ToClient) })
		},
	}
}

// holdRows locks what was claimed just now, calls locked, and lets go after a while.
func (w *world) holdRows(ctx context.Context, hold time.Duration, locked func()) error {
	conn, err := pgx.Connect(ctx, w.adminURL)
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
	w.mu.Lock()
	w.rowsLocked += int(tag.RowsAffected())
	w.mu.Unlock()
	locked()
	deploy.Sleep(ctx, hold)
	return tx.Rollback(context.WithoutCancel(ctx))
}
