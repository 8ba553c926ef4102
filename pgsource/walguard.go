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

// What the server keeps of its log for a slot it keeps until the disk is full. So each
// instance looks after what is kept for itself, and gives its feed up beyond a bound; the
// others look after it as well, for it may be frozen.

// probeSQL sends us something through the log, which tells that all between the table and us
// works, and how far we are behind; and it looks at what the server keeps for us ($4), at what
// it keeps for other instances beyond a bound ($5), at what the slot waits for while it is being
// created ($6), and whether the table is still published. It writes nothing but that message, which
// nobody reads again: if we die just before or after it, nothing is different.
var probeSQL = treeSQL + `
SELECT pg_wal_lsn_diff(pg_logical_emit_message(false, $2, $3), '0/0')::bigint, current_setting('wal_level'), current_setting('synchronous_standby_names'),
       coalesce((SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = $4), 0),
       ARRAY(SELECT active_pid FROM pg_replication_slots
              WHERE temporary AND starts_with(slot_name, 'reactor_') AND slot_name <> $4 AND database = current_database()
                AND active_pid IS NOT NULL AND pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > $5::bigint),
       CASE WHEN $6 THEN coalesce((SELECT format('%s, since %s', who, since::timestamptz(0)) FROM (
              SELECT format('process %s', pid), xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
              UNION ALL SELECT format('the prepared transaction %L', gid), prepared FROM pg_prepared_xacts) AS open (who, since)
              ORDER BY since LIMIT 1), 'whose, this role may not see') ELSE '' END,
       ` + publishedSQL

// errUnpublished: somebody has dropped a publication, or taken the table out of it.
var errUnpublished = errors.New("the table is not in its publications any more")

// probe looks every FeedCheck.
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
		err := f.aside.row(ctx, probeSQL, []any{f.jobs().name, f.probePrefix(), number, f.slot, 2 * f.cfg.MaxFeedWAL, creating},
			&lsn, &level, &standbys, &kept, &stuck, &oldest, &published)
		if err != nil {
			f.probes.unsent(number) // that says nothing about the feed
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
			return fmt.Errorf("WAL feed: the server keeps %d MiB of its log for it, more than pgsource.Config.MaxFeedWAL allows: it is begun anew, and the sweep finds new jobs meanwhile%s", kept>>20, whyKept(creating, oldest))
		case !published:
			return fmt.Errorf("WAL feed: %w", errUnpublished)
		case f.probes.overtaken(f.seen.Load(), time.Now().Add(-f.cfg.FeedCheck)):
			return errors.New("WAL feed: what we send through the log does not arrive, and what comes after it does: pgsource.Config.ListenURL leads to another database")
		case creating:
			text := fmt.Sprintf("the WAL feed waits for the end of transactions that were open before it (the oldest: %s); the sweep finds new jobs", oldest)
			f.feed.problem(errors.New(text))
			waits.Fail(f.log, slog.LevelWarn, "the WAL feed waits for the end of transactions that were open before it; the sweep finds new jobs", "oldest", oldest)
		case lag > probesMissed*f.cfg.FeedCheck:
			f.feed.problem(fmt.Errorf("the WAL feed is %v behind, for the server is with decoding its log; the sweep finds new jobs", lag.Round(time.Second)))
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

// endStuck ends the feed of an instance that does not look after itself: its slot goes with it. If we
// die before it, the next probe of anybody does it; if that instance lives it begins anew.
func (f *walFeed) endStuck(ctx context.Context, pid int32) {
	f.log.Warn("ending the WAL feed of another instance: the server keeps too much of its log for it", "process", pid)
	if err := f.aside.exec(ctx, "SELECT pg_terminate_backend($1)", pid); err != nil {
		f.log.Warn("cannot end the WAL feed of another instance", "process", pid, "err", err)
	}
}

func (f *walFeed) probePrefix() string { return "reactor_probe_" + f.backends }

// probes are what was sent through the log and how long it took to arrive.
type probes struct {
	mu     sync.Mutex
	number int              // guarded by mu
	sent   map[string]probe // guarded by mu: those that have not arrived
	last   time.Duration    // guarded by mu: how long the latest took
}

// probe is one message of ours.
type probe struct {
	at  time.Time
	lsn uint64 // where in the log it is; 0: not known yet
}

// send begins a probe.
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

// sentAt notes where in the log a probe is, unless it has arrived already.
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

// lag is how far behind the feed is: as much as the latest probe, or the oldest that has not
// arrived.
func (p *probes) lag(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	lag := p.last
	for _, one := range p.sent {
		lag = max(lag, now.Sub(one.at))
	}
	return lag
}

// overtaken reports whether a probe that was sent before a time has not arrived, though all of
// the log behind it has.
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
