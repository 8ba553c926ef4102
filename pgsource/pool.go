package pgsource

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pool opens connections as statements need them, and closes those that are not needed any more.
//
//	            opened, warmed up                 a statement ends, nobody waits
//	(nothing) ────────────────────► in use ◄──────────────────────────────────────► idle
//	                                  │                                              │
//	                                  └──► closed ◄──────────────────────────────────┘
//	                     broken, too old, or from before a reset     unused for idleTime
//
// It is not pgxpool, for these reasons. There a statement that finds no idle connection waits for
// one of its own, and fails if the server has none left. Here it takes whichever comes first, a
// connection that is released or a new one; if a new one cannot be opened, the statements share
// those that there are. Connections can be opened ahead of work that is known to come (expect).
// And the connection that was used last is used first, so that those that are not needed are left
// alone and closed; pgxpool turns its stack over with each of its checks, which keeps two
// connections open for a single statement every two seconds.
type pool struct {
	config poolConfig
	// life ends when the pool is closed: attempts to connect are given up.
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup // connections that are being opened or closed

	mu sync.Mutex
	// All that follows is guarded by mu.
	idle    []*pooledConn            // in the order of their last use; the last is used next
	busy    map[*pooledConn]struct{} // in use
	waiting []*waiter                // in the order of their arrival
	open    int                      // connections that are idle or in use
	opening int                      // connections that are being opened
	closing int                      // connections that are being closed, which still count for the server
	want    int                      // how many are to be opened, because of work that is expected
	keep    int                      // how many are kept open for that work
	until   time.Time                // and until when
	era     int                      // the number of resets
	resting time.Time                // no connection is opened before, unless there is none
	reaper  *time.Timer              // runs while there are more idle connections than there have to be
	closed  bool
}

// poolConfig says what a pool opens.
type poolConfig struct {
	connect func(context.Context) (*pgx.Conn, error)
	// setUp prepares a new connection.
	setUp func(context.Context, *pgx.Conn) error
	most  int
	// idleTime is how long a connection may be unused; one always stays open. keepTime is how long
	// those stay open that were opened for expected work.
	idleTime, keepTime time.Duration
	// lifetime is the age at which a connection is replaced, so that a URL with several hosts, or a
	// changed address, is looked up again at times. It varies by up to jitter.
	lifetime, jitter time.Duration
	// short is called when a connection cannot be opened, and those that there are go on. Optional.
	short func(open int, err error)
}

// pooledConn is a connection of a pool. One goroutine at a time has it.
type pooledConn struct {
	*pgx.Conn
	era     int
	expires time.Time
	used    time.Time // when it was released last
}

// waiter is a statement that waits for a connection.
type waiter struct {
	turn chan turn // takes one value
	// patient: it does not have a connection opened for it, unless there is none.
	patient bool
}

type turn struct {
	conn *pooledConn
	err  error
}

const (
	// idleTime is long enough for a connection to be kept from one statement to the next wherever
	// statements come all the time, and short enough for an instance to be idle soon.
	idleTime = 10 * time.Second
	// keepTime is longer than jobs are loaded ahead of their time (reactor.Config.Horizon, which is
	// at most the notify horizon): the connections for their claims are opened when they are loaded.
	keepTime = notifyHorizon + idleTime
	// shortRest is the time between two attempts to open a further connection when the server has
	// none left.
	shortRest = time.Second
)

var errPoolClosed = errors.New("the source is closed")

// newPool returns an empty pool.
func newPool(ctx context.Context, cfg poolConfig) *pool {
	p := &pool{config: cfg, busy: map[*pooledConn]struct{}{}}
	p.life, p.end = context.WithCancel(context.WithoutCancel(ctx))
	return p
}

// poolParameters takes pgxpool's own parameters out of a connection string's configuration, and
// returns the lifetime of a connection.
func poolParameters(databaseURL string) (connect *pgx.ConnConfig, lifetime, jitter time.Duration, err error) {
	cfg, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, 0, 0, redacted(err)
	}
	return cfg.ConnConfig, cfg.MaxConnLifetime, cfg.MaxConnLifetimeJitter, takePassword(cfg.ConnConfig)
}

// acquire returns a connection, which the caller releases. With patience it waits so long for one
// that is released before it has another one opened; 0 has one opened at once.
func (p *pool) acquire(ctx context.Context, patience time.Duration) (*pooledConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errPoolClosed
	}
	for now := time.Now(); len(p.idle) > 0; {
		conn := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if p.usable(conn, now) {
			p.busy[conn] = struct{}{}
			p.mu.Unlock()
			return conn, nil
		}
		p.discard(conn)
	}
	w := &waiter{turn: make(chan turn, 1), patient: patience > 0}
	p.waiting = append(p.waiting, w)
	p.grow()
	p.mu.Unlock()
	if w.patient {
		defer time.AfterFunc(patience, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			w.patient = false
			p.grow()
		}).Stop()
	}
	select {
	case t := <-w.turn:
		return t.conn, t.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	at := slices.Index(p.waiting, w)
	if at >= 0 {
		p.waiting = slices.Delete(p.waiting, at, at+1)
	}
	p.mu.Unlock()
	if at < 0 { // it has got a turn at this very moment
		if t := <-w.turn; t.conn != nil {
			p.release(t.conn)
		}
	}
	return nil, ctx.Err()
}

// release returns a connection. One on which a statement was given up, or whose transaction is
// open, is closed.
func (p *pool) release(conn *pooledConn) {
	protocol := conn.PgConn()
	clean := !protocol.IsClosed() && !protocol.IsBusy() && protocol.TxStatus() == 'I'
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, conn)
	conn.used = time.Now()
	if !clean || !p.usable(conn, conn.used) {
		if clean && !p.closed && conn.era == p.era {
			p.want = max(p.want, p.open) // it has only become too old: open its successor now
		}
		p.discard(conn)
		return
	}
	p.put(conn)
}

// put gives a connection to whoever waits, or keeps it. The caller holds mu.
func (p *pool) put(conn *pooledConn) {
	if len(p.waiting) > 0 {
		w := p.waiting[0]
		p.waiting = slices.Delete(p.waiting, 0, 1)
		p.busy[conn] = struct{}{}
		w.turn <- turn{conn: conn}
		return
	}
	p.idle = append(p.idle, conn)
	p.reapLater(p.config.idleTime)
}

// usable reports whether a connection may be used again. The caller holds mu.
func (p *pool) usable(conn *pooledConn, now time.Time) bool {
	return !p.closed && conn.era == p.era && now.Before(conn.expires) && !conn.IsClosed()
}

// discard closes a connection. It counts until it is closed, because the server counts it. The
// caller holds mu.
func (p *pool) discard(conn *pooledConn) {
	p.open--
	p.closing++
	p.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second) // boundedClose ends it earlier
		defer cancel()
		_ = conn.Close(ctx) // nothing depends on it
		select {
		case <-conn.PgConn().CleanupDone():
		case <-ctx.Done():
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.closing--
		p.grow()
	})
}

// grow opens as many connections as are needed. The caller holds mu.
func (p *pool) grow() {
	if p.closed || p.open > 0 && time.Now().Before(p.resting) {
		return
	}
	need := p.want - p.open
	waiting := 0
	for _, w := range p.waiting {
		if !w.patient {
			waiting++
		}
	}
	if p.open == 0 && len(p.waiting) > 0 {
		waiting = max(waiting, 1)
	}
	need = max(need, waiting)
	for need = min(need, p.config.most-p.open-p.closing); p.opening < need; p.opening++ {
		era := p.era
		p.work.Go(func() { p.openOne(era) })
	}
}

// openOne opens a connection.
func (p *pool) openOne(era int) {
	conn, err := p.config.connect(p.life)
	if err == nil {
		if err = p.config.setUp(p.life, conn); err != nil {
			_ = conn.Close(context.WithoutCancel(p.life)) // it was never used
		}
	}
	p.mu.Lock()
	p.opening--
	if err == nil {
		p.open++
		now := time.Now()
		opened := &pooledConn{Conn: conn, era: era, used: now, expires: now.Add(p.config.lifetime + rand.N(p.config.jitter+1))}
		if p.usable(opened, now) {
			p.put(opened)
		} else { // reset or closed meanwhile
			p.discard(opened)
		}
		if p.open >= p.want {
			p.want = 0
		}
		p.grow()
		p.mu.Unlock()
		return
	}
	p.want = 0
	open := p.open
	if open > 0 {
		p.resting = time.Now().Add(shortRest)
	} else if p.opening == 0 {
		// Nobody can be served. Whoever comes next has it tried again.
		for _, w := range p.waiting {
			w.turn <- turn{err: err}
		}
		p.waiting = nil
	}
	p.mu.Unlock()
	if open > 0 && p.config.short != nil && p.life.Err() == nil {
		p.config.short(open, err)
	}
}

// expect has connections opened for statements that will come within keepTime.
func (p *pool) expect(connections int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	connections = min(connections, p.config.most)
	now := time.Now()
	if now.After(p.until) {
		p.keep = 0
	}
	p.keep, p.until = max(p.keep, connections), now.Add(p.config.keepTime)
	if connections > p.open {
		p.want = max(p.want, connections)
		p.grow()
	}
}

// reapLater arranges for unused connections to be closed. The caller holds mu.
func (p *pool) reapLater(after time.Duration) {
	if p.reaper == nil && p.open > 1 && !p.closed {
		p.reaper = time.AfterFunc(after, p.reap)
	}
}

// reap closes connections that have been unused for idleTime, but not the last one, nor those that
// are kept.
func (p *pool) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaper = nil
	now := time.Now()
	least := 1
	if now.Before(p.until) {
		least = max(least, p.keep)
	}
	for len(p.idle) > 0 && p.open > least && now.Sub(p.idle[0].used) >= p.config.idleTime {
		conn := p.idle[0]
		p.idle = slices.Delete(p.idle, 0, 1)
		p.discard(conn)
	}
	if len(p.idle) > 0 {
		p.reapLater(max(p.config.idleTime-now.Sub(p.idle[0].used), p.config.idleTime/4))
	}
}

// reset has every connection opened anew before its next use.
func (p *pool) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.era++
	for _, conn := range p.idle {
		p.discard(conn)
	}
	p.idle = nil
	p.grow()
}

// giveUp is reset for a server that was replaced: statements that are under way get no answer any
// more, and fail at once; those that wait for a connection get err.
func (p *pool) giveUp(err error) {
	p.reset()
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.busy {
		if conn.era != p.era {
			conn.PgConn().Conn().Close() // whoever uses it releases it
		}
	}
	for _, w := range p.waiting {
		w.turn <- turn{err: err}
	}
	p.waiting = nil
}

// close closes the connections. None may be in use.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	for _, conn := range p.idle {
		p.discard(conn)
	}
	p.idle = nil
	for _, w := range p.waiting {
		w.turn <- turn{err: errPoolClosed}
	}
	p.waiting = nil
	if p.reaper != nil {
		p.reaper.Stop()
	}
	p.mu.Unlock()
	p.end()
	p.work.Wait()
}
