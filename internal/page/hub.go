package page

import (
	"context"
	"html/template"
	"sync"
	"time"

	"github.com/job-publisher/reactor/pgsource"
)

const (
	// tick is the time between two states that viewers get. Instances say once a second how they are doing.
	tick = time.Second
	// linger is how long reading goes on when nobody looks any more: somebody who follows a link is back at once.
	linger = 5 * time.Second
	// mostViewers bounds the streams of an instance. Each takes one of its connections (maxHTTPConnections in cmd/reactor).
	mostViewers = 24
	// firstWait is how long a page waits for what is read first.
	firstWait = 3 * time.Second
	// sparing is how many times as long as a read took we wait until the next one: a database that is busy has other things to do.
	sparing = 9
	// longestPause is between two reads of a slow database, or two attempts to connect.
	longestPause = 15 * time.Second
)

// reading is what is known at a moment: what the tables say, and since when they have not answered.
type reading struct {
	// at is when it was read, on this host's clock; zero: never yet.
	at     time.Time
	status pgsource.Status
	// future is what falls due within a minute, an hour, a day.
	future []pgsource.Future
	// rate is how many jobs a second all instances have published lately; negative: not known yet.
	rate float64
	// gone are the instances that have gone since somebody looks.
	gone []gone
	// err is why the last attempt has failed; nil: it has not.
	err error
	// tried: there was an attempt.
	tried bool
}

// fragment is a part of the page that is replaced as a whole.
type fragment struct {
	ID   string
	HTML template.HTML
	// since is the number of the state in which it has changed last.
	since uint64
	// event is what a stream sends of it, made once for all viewers.
	event []byte
}

// state is what viewers see. It does not change.
type state struct {
	number    uint64
	fragments []fragment
	title     string
	// tick is the event that ends the state in a stream.
	tick []byte
	// complete: the database has been asked, and has answered or failed.
	complete bool
}

// hub makes states while somebody looks, the same ones for all: one goroutine asks the database, one makes a state each tick. A
// viewer takes the newest state whenever it can, so a slow one holds up nobody and misses what was in between.
type hub struct {
	// read asks the database again and again, and notes what it gets, until ctx ends.
	read func(ctx context.Context, note func(reading))
	// render makes the parts of the page.
	render func(reading) (fragments []fragment, title string)

	mu      sync.Mutex
	viewers int                // guarded by mu
	stop    context.CancelFunc // guarded by mu: ends the goroutines; nil: none are running
	timer   *time.Timer        // guarded by mu: calls rest
	known   reading            // guarded by mu
	newest  *state             // guarded by mu; nil: none since the goroutines were started
	changed chan struct{}      // guarded by mu: closed and replaced with each state
	last    uint64             // guarded by mu: number of the newest state of all
	closed  bool               // guarded by mu
	ended   chan struct{}      // closed by close
	running sync.WaitGroup
}

func newHub(read func(context.Context, func(reading)), render func(reading) ([]fragment, string)) *hub {
	return &hub{read: read, render: render, changed: make(chan struct{}), ended: make(chan struct{})}
}

// enter counts a viewer, and starts reading for the first one. stream tells that it stays, of whom there may be mostViewers;
// then ok may be false. leave is to be called once.
func (h *hub) enter(stream bool) (leave func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || stream && h.viewers >= mostViewers {
		return nil, false
	}
	h.viewers++
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	if h.stop == nil {
		h.start()
	}
	return h.leave, true
}

// start starts the goroutines. The caller holds mu.
func (h *hub) start() {
	ctx, cancel := context.WithCancel(context.Background())
	h.stop, h.known, h.newest = cancel, reading{rate: -1}, nil
	tried := make(chan struct{}, 1)
	h.running.Go(func() {
		h.read(ctx, func(r reading) {
			if h.note(ctx, r) {
				tried <- struct{}{}
			}
		})
	})
	h.running.Go(func() { h.tick(ctx, tried) })
}

// note keeps what was read, and reports whether it is the first.
func (h *hub) note(ctx context.Context, r reading) (first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	first = !h.known.tried
	r.tried = true
	if r.err != nil { // what was read before is still shown, with its time
		r.at, r.status, r.future, r.rate, r.gone = h.known.at, h.known.status, h.known.future, h.known.rate, h.known.gone
	}
	h.known = r
	return first
}

// tick makes states: when the database has been asked for the first time, and then at each tick.
func (h *hub) tick(ctx context.Context, tried <-chan struct{}) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tried:
		case <-ticker.C:
		}
		h.makeState(ctx)
	}
}

func (h *hub) makeState(ctx context.Context) {
	h.mu.Lock()
	known, before := h.known, h.newest
	h.mu.Unlock()
	fragments, title := h.render(known)
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	h.last++
	s := &state{number: h.last, title: title, complete: known.tried, fragments: fragments}
	for i := range s.fragments {
		f := &s.fragments[i]
		if before != nil && before.fragments[i].HTML == f.HTML {
			*f = before.fragments[i]
			continue
		}
		f.since = s.number
		f.event = eventOf("part", map[string]string{"id": f.ID, "html": string(f.HTML)})
	}
	s.tick = eventOf("tick", map[string]string{"title": title, "build": build})
	h.newest = s
	close(h.changed)
	h.changed = make(chan struct{})
}

// leave takes a viewer away.
func (h *hub) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.viewers--; h.viewers == 0 && !h.closed {
		h.timer = time.AfterFunc(linger, h.rest)
	}
}

// rest ends the goroutines, if still nobody looks.
func (h *hub) rest() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.viewers == 0 && h.stop != nil {
		h.stop()
		h.stop = nil
	}
}

// current returns the newest state, nil if there is none yet, and what is closed when there is a newer one.
func (h *hub) current() (*state, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.newest, h.changed
}

// first returns a state for a page that is being loaded: as soon as the database has been asked, and in any case soon.
func (h *hub) first(ctx context.Context) (*state, bool) {
	leave, ok := h.enter(false)
	if !ok {
		return nil, false
	}
	defer leave()
	enough := time.NewTimer(firstWait)
	defer enough.Stop()
	late := false
	for {
		s, changed := h.current()
		if s != nil && (s.complete || late) {
			return s, true
		}
		select {
		case <-changed:
		case <-enough.C:
			late = true
		case <-h.ended:
			return nil, false
		case <-ctx.Done():
			return nil, false
		}
	}
}

// close ends the streams and the goroutines, and waits for the latter.
func (h *hub) close() {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.ended)
	}
	if h.timer != nil {
		h.timer.Stop()
	}
	if h.stop != nil {
		h.stop()
		h.stop = nil
	}
	h.mu.Unlock()
	h.running.Wait()
}
