package reactor_test

import (
	"bytes"
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// logbook keeps what an instance logs.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logbook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// lines returns the lines that contain all of the given texts.
func (b *logbook) lines(texts ...string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []string
next:
	for line := range strings.Lines(b.text.String()) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		found = append(found, strings.TrimSpace(line))
	}
	return found
}

// startLogged is start with a logbook that keeps warnings and errors.
func (w *world) startLogged(cfg reactor.Config, change ...func(*pgsource.Config, *mqttsink.Config)) (*instance, *logbook) {
	w.t.Helper()
	book := &logbook{}
	cfg.Logger = slog.New(both{testkit.Logger(w.t).Handler(), slog.NewTextHandler(book, &slog.HandlerOptions{Level: slog.LevelWarn})})
	return w.start(cfg, change...), book
}

// both passes each record to two handlers.
type both struct{ one, other slog.Handler }

func (b both) Enabled(ctx context.Context, l slog.Level) bool {
	return b.one.Enabled(ctx, l) || b.other.Enabled(ctx, l)
}

func (b both) Handle(ctx context.Context, r slog.Record) error {
	for _, h := range []slog.Handler{b.one, b.other} {
		if h.Enabled(ctx, r.Level) {
			if err := h.Handle(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b both) WithAttrs(attrs []slog.Attr) slog.Handler {
	return both{b.one.WithAttrs(attrs), b.other.WithAttrs(attrs)}
}

func (b both) WithGroup(name string) slog.Handler {
	return both{b.one.WithGroup(name), b.other.WithGroup(name)}
}

// TestRowsThatCannotBeClaimed: some rows violate a constraint that was added NOT VALID. They
// don't delay their batches; they are recorded, and are published once the constraint is
// dropped.
func TestRowsThatCannotBeClaimed(t *testing.T) {
	for _, delivery := range []reactor.Delivery{reactor.ExactlyOnce, reactor.AtLeastOnce} {
		t.Run(delivery.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", "")
			in, book := w.startLogged(reactor.Config{Delivery: delivery})
			w.sharesOf(1)
			w.insert(1000, time.Second, time.Second)
			w.exec("ALTER TABLE jobs ADD CONSTRAINT odd CHECK (id % 100 <> 7 OR id > 1000) NOT VALID")
			expected, err := check.ExpectedFromDB(w.ctx, w.db, "id % 100 <> 7")
			if err != nil {
				t.Fatal(err)
			}
			if err := w.subscriber.WaitDistinct(w.ctx, 990); err != nil {
				t.Fatal(err)
			}
			report := w.judgeThese(expected)
			if report.MaxLateness > 2*time.Second {
				t.Errorf("jobs whose rows are in order were up to %v late", report.MaxLateness)
			}
			t.Logf("jobs whose rows are in order are up to %v late", report.MaxLateness)
			w.eventually("the others are recorded with their reason", `
				SELECT count(*) = 10 AND bool_and(reason LIKE 'cannot be claimed: %odd%') FROM reactor.failed_jobs`)
			if s := in.Stats(); s.Quarantined != 10 {
				t.Errorf("%d are quarantined, want 10", s.Quarantined)
			}
			if lines := book.lines("cannot be claimed", "odd"); len(lines) == 0 || len(lines) > 10 {
				t.Errorf("%d log lines are about them: %q", len(lines), lines)
			}
			// Jobs that come later don't wait for them either.
			w.insert(200, 500*time.Millisecond, 500*time.Millisecond)
			expected, err = check.ExpectedFromDB(w.ctx, w.db, "id % 100 <> 7 OR id > 1000")
			if err != nil {
				t.Fatal(err)
			}
			w.judgeThese(expected)
		})
	}
}

// TestRowsWhoseTriggersFail: for some rows, a trigger of the application needs something that
// it can't get: a row that somebody has locked, or a table that was dropped. Other jobs don't
// wait for these, and these are published soon after the cause ends.
func TestRowsWhoseTriggersFail(t *testing.T) {
	for name, need := range map[string]string{
		"a locked row": "UPDATE public.counters SET n = n + 1",
		"no waiting":   "PERFORM FROM public.counters FOR UPDATE NOWAIT",
		"a table":      "PERFORM FROM public.absent",
		"the session":  "IF EXISTS (SELECT FROM public.ending) THEN PERFORM pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid()); PERFORM pg_catalog.pg_sleep(10); END IF",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", "")
			w.exec("CREATE TABLE public.counters AS SELECT 0 AS n")
			w.exec("CREATE TABLE public.ending AS SELECT 1")
			w.exec("CREATE FUNCTION public.needs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN " + need + "; RETURN NEW; END $$")
			w.exec("CREATE TRIGGER needs BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.id % 100 = 7) EXECUTE FUNCTION public.needs()")
			tx, err := w.connect().Begin(w.ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.Background())
			if _, err := tx.Exec(w.ctx, "UPDATE public.counters SET n = n"); err != nil {
				t.Fatal(err)
			}
			in, _ := w.startLogged(reactor.Config{})
			w.sharesOf(1)
			w.insert(1000, time.Second, time.Second)
			expected, err := check.ExpectedFromDB(w.ctx, w.db, "id % 100 <> 7")
			if err != nil {
				t.Fatal(err)
			}
			if err := w.subscriber.WaitDistinct(w.ctx, 990); err != nil {
				t.Fatal(err)
			}
			report := w.judgeThese(expected)
			// A session that ends takes a claim with it: its outcome is asked for, and half of it tried again, some ten
			// times. Without that, none of these jobs would ever be published.
			if report.MaxLateness > 20*time.Second {
				t.Errorf("jobs whose triggers work were up to %v late", report.MaxLateness)
			}
			t.Logf("jobs whose rows are in order are up to %v late", report.MaxLateness)
			if name == "the session" {
				// A job is known to be the cause only while claims of other jobs succeed.
				w.insert(50, 0, 20*time.Second)
				w.until("some are set aside", func() bool { return in.Stats().InQuarantine > 0 })
				return // such jobs are tried rarely
			}
			if err := tx.Rollback(w.ctx); err != nil {
				t.Fatal(err)
			}
			w.exec("CREATE TABLE public.absent ()")
			began := time.Now()
			w.judge()
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("jobs that were set aside were published %v after the end of the cause", took)
			}
		})
	}
}

// TestQuarantineEnds: jobs that could not be claimed are published when the cause has ended,
// and their records are removed. Another instance has not set them aside, and does not have to
// wait.
func TestQuarantineEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.insert(20, 0, 0)
	w.exec("ALTER TABLE jobs ADD CONSTRAINT odd CHECK (id % 2 = 0) NOT VALID")
	first := w.start(reactor.Config{})
	w.eventually("the odd ones are recorded", "SELECT count(*) = 10 FROM reactor.failed_jobs")
	w.exec("ALTER TABLE jobs DROP CONSTRAINT odd")
	first.halt(t)
	w.start(reactor.Config{})
	w.judge()
	w.eventually("no failure is recorded any more", "SELECT NOT EXISTS (SELECT FROM reactor.failed_jobs)")
}

// refusing is a broker that refuses what is published below a topic.
func refusing(t *testing.T) *stack.Mosquitto {
	t.Helper()
	return testkit.OwnMosquitto(t, stack.MosquittoConfig{AccessRules: []string{"topic readwrite #", "topic deny forbidden/#"}})
}

// TestLockedRowsOfRefusedJobs: an application has locked the rows of jobs that the broker
// refuses. The jobs go back to the table when the lock ends; jobs of other topics don't wait
// for it.
func TestLockedRowsOfRefusedJobs(t *testing.T) {
	t.Parallel()
	broker := refusing(t)
	w := newWorld(t, "", broker.URL())
	in := w.start(reactor.Config{}, func(s *pgsource.Config, _ *mqttsink.Config) {
		s.RetryAttempts, s.RetryBackoff = 3, 100*time.Millisecond
	})
	w.sharesOf(1)
	// The lock has to come between the claim, which skips locked rows, and the refusal.
	w.until("the lanes are up", func() bool { return in.Stats().LanesUp == in.Stats().Lanes })
	thaw := freeze(t, broker)
	w.exec("INSERT INTO jobs (topic, fire_at) SELECT 'forbidden/x', now() FROM generate_series(1, 50)")
	w.eventually("all are claimed", "SELECT count(*) = 50 FROM jobs WHERE processed")
	other := w.connect()
	tx, err := other.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(w.ctx, "SELECT FROM jobs WHERE topic LIKE 'forbidden%' FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	thaw()
	w.until("all are refused", func() bool { return in.Stats().Refused >= 50 })
	w.insert(2000, 0, 3*time.Second)
	expected, err := check.ExpectedFromDB(w.ctx, w.db, "topic NOT LIKE 'forbidden%'")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.subscriber.WaitDistinct(w.ctx, len(expected)); err != nil {
		t.Fatal(err)
	}
	report := w.judgeThese(expected)
	if report.MaxLateness > time.Second {
		t.Errorf("jobs of other topics were up to %v late", report.MaxLateness)
	}
	t.Logf("jobs of other topics were up to %v late", report.MaxLateness)
	if s := in.Stats(); s.Failed != 0 {
		t.Errorf("%d jobs are given up while their rows are locked", s.Failed)
	}
	if err := tx.Rollback(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.eventually("the refused ones have failed after three attempts each",
		"SELECT count(*) = 50 AND bool_and(attempts = 3) FROM reactor.failed_jobs")
}

// TestGivenUpIsSaid: when a job is given up, the log says so with its id, topic and reason, but
// fifty such jobs don't make fifty lines. The count of failed jobs is the count of those given
// up.
func TestGivenUpIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", refusing(t).URL())
	in, book := w.startLogged(reactor.Config{}, func(s *pgsource.Config, _ *mqttsink.Config) {
		s.RetryAttempts, s.RetryBackoff = 3, 10*time.Millisecond
	})
	w.exec("INSERT INTO jobs (topic, fire_at) SELECT 'forbidden/' || n || repeat('long', 1000), now() FROM generate_series(1, 50) n")
	w.eventually("all are given up", "SELECT count(*) = 50 FROM reactor.failed_jobs")
	w.settled()
	w.until("the instance knows", func() bool { return in.Stats().Failed >= 50 })
	if s := in.Stats(); s.Failed != 50 || s.Retried != 100 || s.Refused != 150 || s.Published != 0 {
		t.Errorf("failed %d, retried %d, refused %d, published %d; want 50, 100, 150 and none", s.Failed, s.Retried, s.Refused, s.Published)
	}
	lines := book.lines("given up", "topic=forbidden/", "job=", "not authorized")
	if len(lines) == 0 || len(lines) > 5 {
		t.Errorf("%d log lines are about 50 jobs that were given up: %q", len(lines), lines)
	}
	for _, line := range lines {
		if len(line) > 1000 {
			t.Errorf("a line of %d bytes with a topic of 4,000: a producer could fill the log", len(line))
		}
	}
	// The log accounts for all of them, at the latest when the instance has ended.
	in.halt(t)
	said := len(lines)
	for _, line := range book.lines("given up") {
		if _, text, ok := strings.Cut(line, "repeated="); ok {
			n, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			said += n
		}
	}
	if said != 50 {
		t.Errorf("the log accounts for %d of 50 jobs: %q", said, book.lines("given up"))
	}
}
