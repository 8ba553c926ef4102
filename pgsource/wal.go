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

// The WAL feed is a client of logical replication. The server decodes its log for it and sends
// what commits have inserted or updated in the table of jobs: in the order of the commits, once
// they have happened, so that no transaction is open for too long to be heard of.
//
// Nothing is ever resumed: each connection has a slot of its own, which is temporary and ends
// with it, and what was committed before that began is swept. So no slot is left behind by
// whoever dies, and where the feed got to need not be remembered. It is told to the server,
// which throws away what it keeps of the log by it.
//
// Five goroutines:
//
//	receive   reads and decodes, and hands commits to
//	announce  which waits until they can be seen, and gives the hints (walvisible.go)
//	report    tells the server each second where we are, and hears where it is
//	probe     sends us something through the log, and looks after what the server keeps (walguard.go)
//	watch     ends the connection when nothing arrives any more
type walFeed struct {
	*Source
	on   func(driver.Hint)
	conn *pgconn.PgConn
	slot string

	// seen is where in the log we are: all before it was received.
	seen atomic.Uint64
	// heard is when the last message of any kind arrived.
	heard    atomic.Int64 // nanoseconds after began
	began    time.Time
	commits  commits
	probes   probes
	creating atomic.Bool // the slot is being created
}

const (
	// reportEvery is the time between two reports of where we are.
	reportEvery = time.Second
	// readPause is the time between two reads under load. A single commit takes some three.
	readPause, readBurst = time.Millisecond, 12
	// restBytes is more than comes during a pause, or that is over: then the socket's buffer is full.
	restBytes = 1 << 20
	// mostMessage is how long a message may be: anybody can have the server send us some of a
	// gigabyte, by pg_logical_emit_message. A longer one ends the feed, which begins behind it.
	mostMessage = 64 << 20
	// slotPatience bounds one try to create a slot, which keeps VACUUM from its work while it
	// waits for others' transactions.
	slotPatience = 5 * time.Minute
	// walSenderTimeout is after how long without a report the server ends the connection: of an
	// instance that is frozen, whose system still answers for it. It is ours to choose, for a
	// server may have it switched off.
	walSenderTimeout = 30 * time.Second
	// decodingMemory is how much the server collects of transactions that are open before it
	// sends what it has. It costs us nothing to get that early, and a commit of a million rows
	// is told at once then, and does not keep others waiting.
	decodingMemory = "4MB"
)

// listenWAL listens until ctx ends or the connection does.
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
	defer hangUp(conn) // the slot ends with the session either way
	f := &walFeed{Source: s, on: on, conn: conn, slot: s.nextSlot(), began: time.Now()}
	f.commits.init()
	f.heard.Store(0)
	f.creating.Store(true)

	group, ctx := errgroup.WithContext(ctx)
	// What is kept of the log is looked after from the moment at which the slot may be there.
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

// nextSlot names a slot. Not as the one before: that is there until the server has noticed the end
// of its connection, which may take as long as walSenderTimeout.
func (s *Source) nextSlot() string {
	return fmt.Sprintf("%s_%d", strings.ReplaceAll(s.backends, "-", "_"), s.walFeeds.Add(1))
}

// connectWAL opens a connection for replication. It takes the simple protocol alone.
func (s *Source) connectWAL(ctx context.Context) (*pgconn.PgConn, error) {
	cfg, err := parseURL(s.cfg.ListenURL)
	if err != nil {
		return nil, err
	}
	s.configure(cfg)
	cfg.ValidateConnect = takesWrites // whatever the other connections lead through
	cfg.RuntimeParams["replication"] = "database"
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	if errors.Is(err, errReadOnly) && s.cfg.ListenURL != s.cfg.DatabaseURL {
		return nil, errReadOnlyFeed
	}
	if err != nil {
		return nil, err
	}
	// Before anything is set: it may be a session that a pooler gives to others as well.
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
	// Where the system cannot tell that a client is gone, the server refuses this one. It ends
	// the wait for a slot of a client that was killed.
	_ = conn.Exec(ctx, "SET client_connection_check_interval = '1s'").Close()
	return conn, nil
}

// walSettings make the role's own limits void: the slot is created by a statement, and may have
// to wait for as long as somebody's transaction takes.
var walSettings = fmt.Sprintf(`SET statement_timeout = '%dms'; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0;
SET search_path = pg_catalog, pg_temp; SET wal_sender_timeout = '%dms'; SET logical_decoding_work_mem = '%s';
SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'`, slotPatience.Milliseconds(), walSenderTimeout.Milliseconds(), decodingMemory)

// start creates the slot and has the stream begin at its position.
//
// The function creates the same slot as the command CREATE_REPLICATION_SLOT, but as a
// statement, which the server ends when its client is gone (a second after a kill -9; the
// command goes on waiting, and its slot holds the log meanwhile). It returns when the transactions
// that have written and were open before it are over. What they wrote the sweep finds; what
// commits later is in the stream.
func (f *walFeed) start(ctx context.Context) error {
	if err := f.conn.Exec(ctx, "SELECT pg_create_logical_replication_slot('"+f.slot+"', 'pgoutput', true)").Close(); err != nil {
		return err
	}
	return pglogrepl.StartReplication(ctx, f.conn, f.slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{
			"proto_version '2'", "streaming 'on'", "binary 'true'", "messages 'true'",
			"publication_names 'reactor_jobs_inserted,reactor_jobs_updated'",
		},
	})
}

// receive reads what the server sends. No context is watched for each message, which would
// start a goroutine each, and no deadline is set but at the end: on a connection of pgx it
// would break the reports as well, which are written meanwhile.
//
// The server sends each commit by itself, and to be woken for each would cost more than all
// the rest, and the server as well, which does it. So reads are paced: under load there is a bufferful each time, and
// nothing wakes us, nor the runtime's poller, in between.
func (f *walFeed) receive(ctx context.Context) error {
	f.conn.Frontend().SetMaxBodyLen(mostMessage)
	defer context.AfterFunc(ctx, func() { _ = f.conn.Conn().SetDeadline(time.Unix(1, 0)) })()
	d := newDecoder(f.probePrefix())
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
			// From version 18 on a publication that is missing is no error any more: its rows are
			// left out.
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

// take handles what is in one message of the stream.
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
		// All that the server has read of its log, and sent, if it was for us: of other tables
		// and databases for the most part. Without it a quiet table would hold the log of a busy
		// server.
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
				return f.commits.put(ctx, n.written, driver.DBTimeOf(x.ServerTime))
			}
		}
	}
	return nil
}

// advance moves where we are. The server may send what is behind that again.
func (f *walFeed) advance(to pglogrepl.LSN) {
	f.seen.Store(max(f.seen.Load(), uint64(to)))
}

// report tells the server where we are, and asks it where it is: its answer is a sign of life,
// and moves us on while nothing of ours is written.
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

// reply sends one report: received is as good as done, for nothing of it will be asked for
// again. Beside the reads it is written in one piece, from either of two goroutines. If we die
// before it, the server keeps its log until the session ends, which is at once.
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

// watch ends the feed when the server has not answered for too long: a connection that a
// firewall has forgotten looks like one on which nothing happens.
func (f *walFeed) watch(ctx context.Context) error {
	patience := probesMissed * f.cfg.FeedCheck
	tick := time.NewTicker(patience / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if silent := time.Since(f.began) - time.Duration(f.heard.Load()); silent > patience {
			return fmt.Errorf("WAL feed: the server has sent nothing for %v, not even answers", silent.Round(time.Second))
		}
	}
}
