package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/sockopt"
	"github.com/job-publisher/reactor/reactor/driver"
)

// The WAL feed is a client of logical replication. The server decodes its log and sends what
// commits have inserted or updated in the table of jobs. Transactions arrive in the order of their
// commits and after them, so that a transaction that stays open for long is announced, too.
//
// Nothing is resumed. Each connection has its own temporary replication slot, which the server
// drops with the connection, and everything that was committed before the slot existed is swept. So
// a killed instance leaves no slot behind, and no position is stored. The position is only reported
// to the server, which discards the part of its log that it kept for the slot.
//
// The feed has five goroutines:
//
//	receive   reads and decodes, and hands commits to
//	announce  which waits until they are visible, and gives the hints (walvisible.go)
//	report    reports our position to the server each second, and asks for the server's
//	probe     sends a message to ourselves through the log, and limits what the server keeps of it
//	          (walretention.go)
//	watch     ends the connection when nothing arrives any more
type walFeed struct {
	*Source
	on   func(driver.Hint)
	conn *pgconn.PgConn
	slot string

	// seen is our position in the log: everything before it was received.
	seen atomic.Uint64
	// heard is when the last message of any kind arrived.
	heard    atomic.Int64 // nanoseconds after began
	began    time.Time
	commits  commits
	probes   probes
	creating atomic.Bool // the slot is being created
}

const (
	// reportEvery is the time between two reports of our position.
	reportEvery = time.Second
	// readPause is the time between two reads under load. readBurst is how many reads may follow
	// each other without a pause: a single commit takes about three.
	readPause, readBurst = time.Millisecond, 12
	// restBytes is the socket's low-water mark during a pause: more than arrives in one. So the
	// pause ends by time, or when the socket's buffer is full.
	restBytes = 1 << 20
	// mostMessage bounds the length of a message in bytes: with pg_logical_emit_message any client
	// can make the server send us a gigabyte. A longer message ends the feed, which starts again
	// behind it.
	mostMessage = 64 << 20
	// slotTimeout bounds one attempt to create a slot. While the attempt waits for the transactions
	// of others it keeps VACUUM from removing rows.
	slotTimeout = 5 * time.Minute
	// walSenderTimeout is how long after the last report the server ends the connection. It is for
	// an instance that is frozen while its operating system still acknowledges packets. We set it
	// ourselves, because a server may have it switched off.
	walSenderTimeout = 30 * time.Second
	// decodingMemory is how much of an open transaction the server collects before it sends that
	// part. Receiving parts early costs us nothing; a commit of a million rows is then announced at
	// once, and does not delay other commits.
	decodingMemory = "4MB"
)

// listenWAL listens until ctx ends or the connection breaks.
func (s *Source) listenWAL(ctx context.Context, on func(driver.Hint)) error {
	s.walRuns.Store(true)
	defer s.walRuns.Store(false)
	p, err := s.provision(ctx)
	if err != nil {
		return fmt.Errorf("WAL feed: %w", err)
	}
	if !p.published {
		if err := s.makePublications(ctx); err != nil {
			return fmt.Errorf("WAL feed: %w", err)
		}
	}
	conn, err := s.connectWAL(ctx)
	if err != nil {
		return fmt.Errorf("WAL feed: %w", explainWAL(err))
	}
	defer closeReplication(conn) // if that fails, the slot still ends with the session
	f := &walFeed{Source: s, on: on, conn: conn, slot: s.nextSlot(), began: time.Now()}
	f.commits.init()
	f.heard.Store(0)
	f.creating.Store(true)

	group, ctx := errgroup.WithContext(ctx)
	// Limit what the server keeps of its log from the moment at which the slot may exist.
	group.Go(func() error { return f.probe(ctx) })
	group.Go(func() error {
		if err := f.start(ctx); err != nil {
			return fmt.Errorf("WAL feed: %w", explainWAL(err))
		}
		f.heard.Store(int64(time.Since(f.began)))
		f.creating.Store(false)
		on(driver.Hint{Kind: driver.HintConnected})
		group.Go(func() error { return f.report(ctx) })
		group.Go(func() error { return f.watch(ctx) })
		group.Go(func() error { return f.announce(ctx) })
		return f.receive(ctx)
	})
	return group.Wait()
}

// nextSlot returns a name for a slot. It differs from the name of the previous slot, which exists
// until the server has noticed that its connection ended: that can take walSenderTimeout.
func (s *Source) nextSlot() string {
	return s.names.In(fmt.Sprintf("%s_%d", strings.ReplaceAll(s.backends, "-", "_"), s.walFeeds.Add(1)))
}

// connectWAL opens a connection for replication. Such a connection accepts the simple query
// protocol only.
func (s *Source) connectWAL(ctx context.Context) (*pgconn.PgConn, error) {
	cfg, err := s.feedHosts.files.config(s.cfg.ListenURL)
	if err != nil {
		return nil, err
	}
	s.configure(cfg)
	cfg.ValidateConnect = s.acceptsForFeed
	cfg.RuntimeParams["replication"] = "database"
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := s.feedHosts.connectProtocol(ctx, cfg)
	if errors.Is(err, errReadOnly) && s.cfg.ListenURL != s.cfg.DatabaseURL {
		return nil, errReadOnlyFeed
	}
	if err != nil {
		return nil, err
	}
	// Before any SET: the session may be one that a pooler gives to other clients as well.
	if _, err := pglogrepl.IdentifySystem(ctx, conn); err != nil {
		_ = conn.Close(ctx)
		if sqlState(err) == pgerrcode.SyntaxError {
			return nil, pooledWAL("it gives us an ordinary session", err)
		}
		return nil, err
	}
	if err := conn.Exec(ctx, walSettings).Close(); err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	// The server ends the wait for a slot when its client was killed. A server whose operating
	// system cannot detect that refuses this setting, which is no error.
	_ = conn.Exec(ctx, "SET client_connection_check_interval = '1s'").Close()
	return conn, nil
}

// walSettings lift the role's limits: a statement creates the slot, and may have to wait as long as
// a transaction of somebody else takes.
var walSettings = fmt.Sprintf(`SET statement_timeout = '%dms'; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0;
SET search_path = pg_catalog, pg_temp; SET wal_sender_timeout = '%dms'; SET logical_decoding_work_mem = '%s';
SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'`, slotTimeout.Milliseconds(), walSenderTimeout.Milliseconds(), decodingMemory)

// start creates the slot and starts the stream at the slot's position.
//
// The function creates the same slot as the command CREATE_REPLICATION_SLOT. But the function is a
// statement, which the server ends when its client is gone, one second after a kill -9; the command
// goes on waiting, and its slot holds the log meanwhile. The function returns when the transactions
// that had written and were open before it have ended. The sweep finds what they wrote; what
// commits later is in the stream.
func (f *walFeed) start(ctx context.Context) error {
	if err := f.conn.Exec(ctx, "SELECT pg_create_logical_replication_slot('"+f.slot+"', 'pgoutput', true)").Close(); err != nil {
		return err
	}
	return pglogrepl.StartReplication(ctx, f.conn, f.slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{
			"proto_version '2'", "streaming 'on'", "binary 'true'", "messages 'true'",
			f.names.In("publication_names 'reactor_jobs_inserted,reactor_jobs_updated'"),
		},
	})
}

// receive reads what the server sends. It watches no context for each message, because that would
// start a goroutine for each. It sets no deadline except at the end: on a connection of pgx a
// deadline would also break the reports, which are written at the same time.
//
// The server sends each commit by itself. Waking for each commit would cost us more than all the
// rest, and would slow the server as well. So reads are paced: under load each read returns a full
// buffer, and neither we nor the runtime's poller is woken in between.
func (f *walFeed) receive(ctx context.Context) error {
	f.conn.Frontend().SetMaxBodyLen(mostMessage)
	defer context.AfterFunc(ctx, func() { _ = f.conn.Conn().SetDeadline(time.Unix(1, 0)) })()
	d := newDecoder(f.probePrefix())
	d.membership, d.named = f.names.In(membershipChannel), f.names.In(jobsChannel)
	reads := pacer{every: readPause, burst: readBurst}
	lowWater := sockopt.NewLowWater(f.conn.Conn())
	for {
		if f.conn.Frontend().ReadBufferLen() == 0 {
			if rest := reads.take(time.Now()); rest > 0 {
				lowWater.Set(restBytes)
				time.Sleep(rest)
				lowWater.Set(1)
			}
		}
		message, err := f.conn.ReceiveMessage(context.Background())
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("WAL feed: the connection is lost: %w", err)
		}
		f.heard.Store(int64(time.Since(f.began)))
		switch m := message.(type) {
		case *pgproto3.CopyData:
			if err := f.take(ctx, d, m.Data); err != nil {
				return err
			}
		case *pgproto3.NoticeResponse:
			// From version 18 on a missing publication is no longer an error: the server leaves its
			// rows out.
			if m.Code == pgerrcode.ObjectNotInPrerequisiteState {
				return fmt.Errorf("WAL feed: %w (%s)", errUnpublished, m.Message)
			}
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("WAL feed: %w", explainWAL(pgconn.ErrorResponseToPgError(m)))
		case *pgproto3.CopyDone:
			return errors.New("WAL feed: the server ends the stream")
		}
	}
}

// take handles one message of the stream.
func (f *walFeed) take(ctx context.Context, d *decoder, data []byte) error {
	if len(data) == 0 {
		return errMalformed
	}
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return fmt.Errorf("WAL feed: %w", err)
		}
		// The server has read its log up to this position, and has sent what was for us. Most of
		// the log concerns other tables and databases: without this a quiet table would hold the
		// log of a busy server.
		if d.settled() {
			f.advance(k.ServerWALEnd)
		}
		if k.ReplyRequested {
			return f.reply(ctx, false)
		}
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return fmt.Errorf("WAL feed: %w", err)
		}
		n, err := d.decode(x.WALData)
		if err != nil {
			return fmt.Errorf("WAL feed: %w", err)
		}
		switch {
		case n.probe != "":
			f.probes.arrived(n.probe)
		case n.end != 0:
			f.advance(n.end)
			if n.written.concerns() {
				return f.commits.put(ctx, n.written, driver.DBTimeOf(x.ServerTime), driver.ShardSet(f.owned.Load()))
			}
		}
	}
	return nil
}

// advance moves our position forward; the server may name a position again that we have passed.
func (f *walFeed) advance(to pglogrepl.LSN) {
	f.seen.Store(max(f.seen.Load(), uint64(to)))
}

// report reports our position to the server each second, and asks for the server's: the answer
// shows that the connection works, and moves our position forward while nothing of ours is written.
func (f *walFeed) report(ctx context.Context) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		if err := f.reply(ctx, true); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// reply sends one report of our position. All that was received counts as processed, because it is
// never requested again. The report is one write, made by either of two goroutines beside the
// reads. If we crash before it, the server keeps its log until the session ends, which is at once.
func (f *walFeed) reply(ctx context.Context, ask bool) error {
	at := pglogrepl.LSN(f.seen.Load())
	err := pglogrepl.SendStandbyStatusUpdate(ctx, f.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: at, WALFlushPosition: at, WALApplyPosition: at, ReplyRequested: ask,
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("WAL feed: the connection is lost: %w", err)
	}
	return nil
}

// watch ends the feed when the server has sent nothing for too long: a connection that a firewall
// has forgotten looks like one on which nothing happens.
func (f *walFeed) watch(ctx context.Context) error {
	timeout := probesMissed * f.cfg.FeedCheck
	tick := time.NewTicker(timeout / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if silent := time.Since(f.began) - time.Duration(f.heard.Load()); silent > timeout {
			return fmt.Errorf("WAL feed: the server has sent nothing for %v, not even answers", silent.Round(time.Second))
		}
	}
}
