package pgsource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/ratelog"
	"github.com/job-publisher/reactor/reactor/driver"
)

// The names of the channels, with the schema reactor. Each deployment has channels of its own.
const (
	// jobsChannel carries the hints of sql/triggers.sql.
	jobsChannel = "reactor_jobs"
	// membershipChannel announces that shards or lanes have a new owner.
	membershipChannel = "reactor_membership"
	// probeChannel is for probes of the feed, which all instances hear.
	probeChannel = "reactor_probe"
	// probesMissed is how many probes in a row must be missing before the feed counts as broken.
	probesMissed = 3
)

// listenNotify receives the notifications of the triggers.
//
// A half-open connection, or one that a pooler has detached from its LISTEN, looks just like one on
// which nothing happens. So we notify ourselves over another connection when nothing has arrived for
// a while, and end with an error if that notification does not arrive.
//
// Every listener of the database is woken by every notification. So the instances share their
// probes: what one sends arrives at all, and saves them their own. If each had a channel of its own,
// n instances would cause n² wake-ups in each FeedCheck.
func (s *Source) listenNotify(ctx context.Context, on func(driver.Hint)) error {
	conn, err := s.connectListener(ctx)
	if err != nil {
		return fmt.Errorf("listen: %w", explain(err))
	}
	defer func() {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closeCtx) // the server drops the subscription either way
	}()
	for _, channel := range []string{jobsChannel, membershipChannel, probeChannel} {
		if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{s.names.In(channel)}.Sanitize()); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	if err := s.sendProbe(ctx); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.watchTable(ctx)
	on(driver.Hint{Kind: driver.HintConnected})

	var heard hearing
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.probe(ctx, &heard) })
	group.Go(func() error { return s.receive(ctx, conn, &heard, on) })
	return group.Wait()
}

func (s *Source) connectListener(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := s.feedHosts.files.config(s.cfg.ListenURL)
	if err != nil {
		return nil, err
	}
	s.configure(cfg)
	cfg.ValidateConnect = s.acceptsForFeed
	return connectWithoutLimits(ctx, cfg, s.feedHosts.connect, func(conn *pgx.Conn) error {
		var pid int
		if err := conn.QueryRow(ctx, "SELECT pg_catalog.pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid); err != nil {
			return err
		}
		if uint32(pid) != conn.PgConn().PID() {
			return errPooledListener
		}
		return pinSettings(ctx, conn, nil)
	})
}

// errPooledListener: a notification would go to whichever client has the session at that moment.
var errPooledListener = errors.New("the connection for LISTEN leads through a pooler, which does not carry notifications: give the database's own address as pgsource.Config.ListenURL")

// hearing is when the last notification arrived. The zero time: none yet.
type hearing struct{ last atomic.Pointer[time.Time] }

func (h *hearing) now() {
	now := time.Now()
	h.last.Store(&now)
}

// within reports whether a notification has arrived within d, and how long ago.
func (h *hearing) within(d time.Duration) (age time.Duration, arrived bool) {
	last := h.last.Load()
	if last == nil {
		return 0, false
	}
	age = time.Since(*last)
	return age, age < d
}

// probe sends a notification when none has arrived for about a FeedCheck. The time varies, so that
// of many instances one sends first, and the others hear it before their own turn.
func (s *Source) probe(ctx context.Context, heard *hearing) error {
	patience := func() time.Duration { return s.cfg.FeedCheck*3/4 + rand.N(s.cfg.FeedCheck/4+1) }
	rest := patience() // since the first probe, which was sent before
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rest):
		}
		rest = patience()
		if age, arrived := heard.within(rest); arrived {
			rest -= age
		} else if err := s.sendProbe(ctx); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
}

// sendProbe sends a notification, and returns an error if nobody can send any: then the connection would be silent
// for a reason that is not its own. That a probe cannot be sent for another reason says nothing about the feed.
func (s *Source) sendProbe(ctx context.Context) error {
	err := s.background.exec(ctx, "SELECT pg_notify($1, '')", s.names.In(probeChannel))
	if queueFull(err) {
		// The server drops what everybody has read when it adds something, which it cannot, or when it is asked this.
		_ = s.background.exec(ctx, "SELECT pg_notification_queue_usage()")
		return explain(err)
	}
	if err != nil {
		s.log.Debug("cannot probe the feed", "err", err)
	}
	return nil
}

// receive turns notifications into hints.
//
// Any client that may connect can notify our channels. A notification that we cannot read is
// ignored: if another version of the triggers has sent it, the next sweep finds its jobs. Sweeping
// at once was tried: any client could then make every instance read the whole table and write a log
// line, as often as it liked.
func (s *Source) receive(ctx context.Context, conn *pgx.Conn, heard *hearing, on func(driver.Hint)) error {
	var junk ratelog.Limiter
	for {
		silence, cancel := context.WithTimeout(ctx, probesMissed*s.cfg.FeedCheck)
		n, err := conn.WaitForNotification(silence)
		silent := errors.Is(silence.Err(), context.DeadlineExceeded)
		cancel()
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil && silent:
			return errors.New("no notification arrives, not even our own: is there a pooler in transaction mode? Give the database's own address as pgsource.Config.ListenURL")
		case err != nil:
			return fmt.Errorf("listen: %w", err)
		}
		heard.now()
		switch n.Channel {
		case s.names.In(jobsChannel):
			hint, err := parseHint(n.Payload)
			if err != nil {
				junk.Fail(s.log, slog.LevelWarn, "ignored a notification that is not ours, or of another version of the triggers; the sweep finds its jobs; if it is ours, run `reactor migrate feed notify`",
					"payload", beginning(n.Payload))
				continue
			}
			on(hint)
		case s.names.In(membershipChannel):
			on(driver.Hint{Kind: driver.HintMembership})
		}
	}
}

// parseHint reads "min_id max_id earliest shards". The triggers of a version before 5 do not name
// the shards: then any instance may own them. What follows is of a later version, and ignored.
func parseHint(payload string) (driver.Hint, error) {
	hint := driver.Hint{Kind: driver.HintJobs}
	var shards int64
	fields := strings.Split(payload, " ")
	if len(fields) < 3 {
		return driver.Hint{}, errMalformedHint
	}
	into := []*int64{&hint.MinID, &hint.MaxID, (*int64)(&hint.Earliest), &shards}
	for i, field := range into[:min(len(fields), len(into))] {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return driver.Hint{}, errMalformedHint
		}
		*field = n
	}
	if hint.MinID > hint.MaxID {
		return driver.Hint{}, errMalformedHint
	}
	hint.Shards = driver.ShardSet(uint64(shards))
	return hint, nil
}

var errMalformedHint = errors.New("malformed hint")

// beginning returns the part of a payload that is logged: it comes from anybody, and has up to
// 8,000 bytes.
func beginning(payload string) string {
	const most = 60
	if len(payload) <= most {
		return payload
	}
	return strings.ToValidUTF8(payload[:most], "") + "…"
}
