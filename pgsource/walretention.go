package pgsource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"
)

// The server keeps the log that a slot needs until its disk is full. So each instance limits what
// is kept for its own slot, and gives its feed up beyond a bound; the other instances enforce a
// larger bound as well, because the instance may be frozen.

// probeSQL sends a message to ourselves through the log. Its arrival shows that everything between
// the table and us works, and how far we are behind. The statement also reads what the server keeps
// for our slot ($4), which slots of other instances exceed a bound ($5), what the slot waits for
// while it is being created ($6), and whether the table is still published. It writes nothing but
// that message, which nobody reads again: a crash just before or after it makes no difference.
var probeSQL = treeSQL + `
SELECT pg_wal_lsn_diff(pg_logical_emit_message(false, $2, $3), '0/0')::bigint, current_setting('wal_level'), current_setting('synchronous_standby_names'),
       coalesce((SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = $4), 0),
       ARRAY(SELECT active_pid FROM pg_replication_slots
              WHERE temporary AND slot_name ~ '^reactor_[0-9a-f]{8}_[0-9]+$' AND slot_name <> $4 AND database = current_database()
                AND active_pid IS NOT NULL AND pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > $5::bigint),
       CASE WHEN $6 THEN coalesce((SELECT format('%s, since %s', who, since::timestamptz(0)) FROM (
              SELECT format('process %s', pid), xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
              UNION ALL SELECT format('the prepared transaction %L', gid), prepared FROM pg_prepared_xacts) AS open (who, since)
              ORDER BY since LIMIT 1), 'not visible to this role') ELSE '' END,
       ` + publishedSQL

// errUnpublished: somebody has dropped a publication, or removed the table from it.
var errUnpublished = errors.New("the table is not in its publications any more")

// probe runs probeSQL every FeedCheck.
func (f *walFeed) probe(ctx context.Context) error {
	tick := time.NewTicker(f.cfg.FeedCheck)
	defer tick.Stop()
	var waits ratelog.Limiter
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		var (
			lsn             int64
			level, standbys string
			kept            int64
			stuck           []int32
			oldest          string
			published       bool
		)
		creating := f.creating.Load()
		number := ""
		if !creating {
			number = f.probes.send(time.Now())
		}
		err := f.background.row(ctx, probeSQL, []any{f.jobs().name, f.probePrefix(), number, f.slot, 2 * f.cfg.MaxFeedWAL, creating},
			&lsn, &level, &standbys, &kept, &stuck, &oldest, &published)
		if err != nil {
			f.probes.unsent(number) // a failed statement says nothing about the feed
			f.log.Debug("cannot probe the feed", "err", err)
			continue
		}
		f.probes.sentAt(number, uint64(lsn))
		lag := f.probes.lag(time.Now())
		f.feed.lag(kept, lag)
		obstacle := walServerObstacle(level, standbys)
		switch {
		case obstacle != nil:
			return fmt.Errorf("WAL feed: %w", obstacle)
		case kept > f.cfg.MaxFeedWAL:
			return fmt.Errorf("WAL feed: the server keeps %d MiB of its log for it, more than pgsource.Config.MaxFeedWAL allows: it starts again, and the sweep finds new jobs meanwhile%s", kept>>20, whyKept(creating, oldest))
		case !published:
			return fmt.Errorf("WAL feed: %w", errUnpublished)
		case f.probes.overtaken(f.seen.Load(), time.Now().Add(-f.cfg.FeedCheck)):
			return errors.New("WAL feed: our messages through the log do not arrive, and later ones of others do: pgsource.Config.ListenURL leads to another database")
		case creating:
			text := fmt.Sprintf("the WAL feed waits for the end of transactions that were open before it (the oldest: %s); the sweep finds new jobs", oldest)
			f.feed.problem(errors.New(text))
			waits.Fail(f.log, slog.LevelWarn, "the WAL feed waits for the end of transactions that were open before it; the sweep finds new jobs", "oldest", oldest)
		case lag > probesMissed*f.cfg.FeedCheck:
			f.feed.problem(fmt.Errorf("the WAL feed is %v behind, because the server is that far behind with decoding its log; the sweep finds new jobs", lag.Round(time.Second)))
		default:
			f.feed.problem(nil)
		}
		for _, pid := range stuck {
			f.endStuck(ctx, pid)
		}
	}
}

func whyKept(creating bool, oldest string) string {
	if creating {
		return " (it waits for a transaction: " + oldest + ")"
	}
	return ""
}

// endStuck ends the feed of an instance that does not limit its own slot; the slot ends with it. If
// we crash before it, the next probe of any instance does it. If the other instance is alive, it
// starts its feed again.
func (f *walFeed) endStuck(ctx context.Context, pid int32) {
	f.log.Warn("ending the WAL feed of another instance: the server keeps too much of its log for it", "process", pid)
	if err := f.background.exec(ctx, "SELECT pg_terminate_backend($1)", pid); err != nil {
		f.log.Warn("cannot end the WAL feed of another instance", "process", pid, "err", err)
	}
}

func (f *walFeed) probePrefix() string { return "reactor_probe_" + f.backends }

// probes records the messages that were sent through the log, and how long they took.
type probes struct {
	mu     sync.Mutex
	number int              // guarded by mu
	sent   map[string]probe // guarded by mu: the probes that have not arrived
	last   time.Duration    // guarded by mu: how long the latest arrived probe took
}

// probe is one message to ourselves.
type probe struct {
	at  time.Time
	lsn uint64 // its position in the log; 0: not known yet
}

// send records a new probe and returns its number.
func (p *probes) send(now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent == nil {
		p.sent = map[string]probe{}
	}
	p.number++
	number := strconv.Itoa(p.number)
	p.sent[number] = probe{at: now}
	return number
}

// sentAt records the position of a probe in the log, unless the probe has arrived already.
func (p *probes) sentAt(number string, lsn uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one, ok := p.sent[number]; ok {
		one.lsn = lsn
		p.sent[number] = one
	}
}

func (p *probes) unsent(number string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sent, number)
}

func (p *probes) arrived(number string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one, ok := p.sent[number]; ok {
		p.last = time.Since(one.at)
		delete(p.sent, number)
	}
}

// lag returns how far the feed is behind: the time of the latest arrived probe, or the age of the
// oldest that has not arrived, whichever is longer.
func (p *probes) lag(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	lag := p.last
	for _, one := range p.sent {
		lag = max(lag, now.Sub(one.at))
	}
	return lag
}

// overtaken reports whether a probe that was sent before a time has not arrived, although the log
// behind it has.
func (p *probes) overtaken(seen uint64, before time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.sent {
		if one.lsn != 0 && one.lsn < seen && one.at.Before(before) {
			return true
		}
	}
	return false
}
