package pgsource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"
	"github.com/job-publisher/reactor/reactor/driver"
)

// Feed selects how an instance learns of new jobs. No feed decides anything: the state of a job is
// what its row says, and the sweep finds every job that the feed did not announce.
type Feed uint8

const (
	// FeedAuto uses what the deployment has: the triggers, or the publications. With neither it
	// uses the WAL if the server and our role allow that, and otherwise notify. With both, which is
	// the state while a deployment changes over, it listens to both (feedswitch.go).
	FeedAuto Feed = iota
	// FeedWAL reads the server's log by logical replication. It costs producers nothing.
	FeedWAL
	// FeedNotify listens to the triggers' notifications. They make the commits of producers wait
	// for each other.
	FeedNotify
	// FeedPoll uses no announcements: the sweep finds new jobs, up to one loop late.
	FeedPoll
)

var feedNames = []string{"auto", "wal", "notify", "poll"}

// String returns the name that flags and logs use: "auto", "wal", "notify" or "poll".
func (f Feed) String() string {
	if int(f) < len(feedNames) {
		return feedNames[f]
	}
	return fmt.Sprintf("Feed(%d)", uint8(f))
}

// MarshalText returns the name that String returns.
func (f Feed) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText parses what MarshalText returns; any other text is an error.
func (f *Feed) UnmarshalText(text []byte) error {
	at := slices.Index(feedNames, string(text))
	if at < 0 {
		return fmt.Errorf("unknown feed %q: use auto, wal, notify or poll", text)
	}
	*f = Feed(at)
	return nil
}

// Listen implements driver.Feed.
func (s *Source) Listen(ctx context.Context, on func(driver.Hint)) error {
	defer s.feed.reset()
	s.tellFailover(on)
	if s.cfg.Feed == FeedAuto {
		return s.listenAuto(ctx, on)
	}
	s.feed.choseAt(fixedFeed)
	return s.listenTo(ctx, s.cfg.Feed, on)
}

// listenTo listens to one feed until ctx ends, the feed breaks, or the database moves.
func (s *Source) listenTo(ctx context.Context, feed Feed, on func(driver.Hint)) error {
	moved := s.moves.soon()
	s.tellFailover(on) // which came before we waited for one
	ctx, end := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer end(nil)
	watch.Go(func() {
		select {
		case <-moved:
			end(errMoved)
		case <-ctx.Done():
		}
	})
	err := s.listenUntil(ctx, feed, on)
	if context.Cause(ctx) == errMoved {
		s.timelines.untold()
		on(driver.Hint{Kind: driver.HintFailover})
		return errMoved
	}
	return err
}

// tellFailover tells of a failover that was seen while no feed was running.
func (s *Source) tellFailover(on func(driver.Hint)) {
	if s.timelines.untold() {
		on(driver.Hint{Kind: driver.HintFailover})
	}
}

// listenUntil listens to one feed until ctx ends or the feed breaks.
func (s *Source) listenUntil(ctx context.Context, feed Feed, on func(driver.Hint)) error {
	defer s.feed.setEnded(feed)
	pass := func(h driver.Hint) {
		if h.Kind == driver.HintConnected {
			s.feed.setEstablished(feed)
		}
		on(h)
	}
	switch feed {
	case FeedWAL:
		return s.listenWAL(ctx, pass)
	case FeedPoll:
		pass(driver.Hint{Kind: driver.HintConnected})
		<-ctx.Done()
		return ctx.Err()
	default:
		return s.listenNotify(ctx, pass)
	}
}

// listenAuto listens to the feeds that the deployment provides, and follows when that changes: it
// ends the old feed once the new one is established. FeedSwitch tells the instances of a change
// over the channel of the membership; a change by hand is noticed within a minute.
func (s *Source) listenAuto(ctx context.Context, on func(driver.Hint)) error {
	chosen, why, err := s.choose(ctx)
	if err != nil {
		return err
	}
	a := autoFeed{Source: s, running: map[Feed]*running{}, ended: make(chan *running), on: on}
	ctx, cancel := context.WithCancel(ctx)
	defer a.done.Wait()
	defer cancel()
	a.follow(ctx, chosen, why)
	tick := time.NewTicker(s.cfg.FeedCheck)
	defer tick.Stop()
	looked := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-a.ended:
			if a.running[r.feed] != r {
				continue // follow has ended it
			}
			delete(a.running, r.feed)
			if len(a.running) == 0 {
				return r.err
			}
			a.lost.Fail(s.log, slog.LevelWarn, "one of two feeds is lost; trying again", "feed", r.feed.String(), "err", r.err)
			s.feed.problem(r.err)
			continue
		case <-s.feedChecks:
			// Any client may send notifications on that channel, as often as it likes.
			if rest := feedCheckPause - time.Since(looked); rest > 0 {
				time.AfterFunc(rest, s.requestFeedCheck)
				continue
			}
		case <-tick.C:
			if s.feed.allEstablished(a.chosen) && !a.provisional() {
				continue
			}
		}
		looked = time.Now()
		// If the database does not answer, the components that need it report that.
		if chosen, why, err := s.choose(ctx); err == nil {
			a.follow(ctx, chosen, why)
		}
	}
}

// feedCheckPause is the least time between two checks of what the deployment provides.
const feedCheckPause = 250 * time.Millisecond

// autoFeed is the state of listenAuto. The goroutine of listenAuto owns it.
type autoFeed struct {
	*Source
	running map[Feed]*running
	done    sync.WaitGroup
	ended   chan *running
	lost    ratelog.Limiter

	callMu sync.Mutex
	on     func(driver.Hint) // called under callMu, by one feed at a time
}

// running is a feed that was started and has not been removed.
type running struct {
	feed Feed
	end  context.CancelFunc
	over chan struct{} // closed when it has ended
	err  error         // written before over is closed
}

// follow starts the chosen feeds. Once all of them are established it ends the others.
func (a *autoFeed) follow(ctx context.Context, chosen []Feed, why string) {
	if said := names(chosen) + ": " + why; said != a.saidFeed {
		a.saidFeed = said
		level := slog.LevelInfo
		if a.missingAnnouncement() != nil {
			level = slog.LevelWarn
		}
		a.log.Log(ctx, level, "how new jobs are announced", "feed", names(chosen), "because", why)
	}
	for _, feed := range chosen {
		if a.running[feed] == nil {
			a.start(ctx, feed)
		}
	}
	if !a.feed.allEstablished(chosen) {
		return // the next tick tries again
	}
	for feed, r := range a.running {
		if !slices.Contains(chosen, feed) {
			delete(a.running, feed)
			r.end()
			<-r.over // a second at most. Its late updates must not be taken for those of a feed that follows.
		}
	}
}

// provisional reports whether more feeds run than were chosen, or the chosen feed announces
// nothing: then the deployment is checked again soon.
func (a *autoFeed) provisional() bool {
	return len(a.running) > len(a.chosen) || a.missingAnnouncement() != nil
}

func (a *autoFeed) start(ctx context.Context, feed Feed) {
	ctx, end := context.WithCancel(ctx)
	r := &running{feed: feed, end: end, over: make(chan struct{})}
	a.running[feed] = r
	a.done.Go(func() {
		defer end()
		r.err = a.listenTo(ctx, feed, a.tell)
		close(r.over)
		select {
		case a.ended <- r:
		case <-ctx.Done(): // follow has ended it
		}
	})
}

// tell passes a hint on. A change of the membership may also be a change of the feeds, so it
// requests a check.
func (a *autoFeed) tell(h driver.Hint) {
	a.callMu.Lock()
	defer a.callMu.Unlock()
	a.on(h)
	if h.Kind != driver.HintJobs {
		a.requestFeedCheck()
	}
}

// requestFeedCheck has listenAuto check what the deployment provides.
func (s *Source) requestFeedCheck() {
	select {
	case s.feedChecks <- struct{}{}:
	default: // a check is requested already
	}
}

func names(feeds []Feed) string {
	list := make([]string, len(feeds))
	for i, feed := range feeds {
		list[i] = feed.String()
	}
	return strings.Join(list, " and ")
}

// fixedFeed is the time that an instance reports as feed_chosen_at when its feed is configured and
// not chosen.
var fixedFeed = driver.DBTimeOf(time.Date(9999, time.January, 1, 0, 0, 0, 0, time.UTC))

// choose returns the feeds to listen to, and the reason in words. Once a feed has been chosen,
// missing triggers alone are no reason to change to the WAL: somebody may have disabled them for a
// moment, and the sweep finds what they would have announced. Publications are a reason.
func (s *Source) choose(ctx context.Context) (feeds []Feed, why string, err error) {
	defer func() {
		if err == nil {
			s.chosen = feeds
		}
	}()
	p, err := s.provision(ctx)
	if err != nil {
		return nil, "", s.failed("look how new jobs are announced", err)
	}
	// The feeds that an earlier choice ended have ended.
	s.feed.choseAt(p.at)
	s.setMissing(nil)
	switch {
	case p.triggers && p.published:
		return []Feed{FeedNotify, FeedWAL}, "the table has triggers and publications: it is being changed over (`reactor migrate feed` finishes it)", nil
	case p.triggers:
		return []Feed{FeedNotify}, "the table has its triggers", nil
	}
	if !p.published && slices.Contains(s.chosen, FeedNotify) {
		why := "the table has lost its triggers, and only the sweep finds new jobs: run `reactor migrate feed notify`, or `reactor migrate feed wal`"
		s.setMissing(errors.New(why))
		return []Feed{FeedNotify}, why, nil
	}
	obstacle, err := s.walObstacle(ctx, p)
	switch {
	case err != nil:
		return nil, "", err
	case obstacle != nil:
		why := "the table has no triggers, the WAL cannot be read, and only the sweep finds new jobs: " + obstacle.Error() + "; or run `reactor migrate feed notify`"
		s.setMissing(errors.New(why))
		return []Feed{FeedNotify}, why, nil
	}
	return []Feed{FeedWAL}, "the table has no triggers, and the server lets us read its WAL", nil
}

// feedStatus is the current state of the feeds.
type feedStatus struct {
	mu          sync.Mutex
	state       driver.FeedState // guarded by mu; Kind is not set in it
	established []Feed           // guarded by mu: the feeds that are established, in ascending order
	missing     error            // guarded by mu: why nothing announces new jobs, whichever feed is established
	// chose is the time before the table was looked at for the current choice. Guarded by mu.
	chose driver.DBTime
}

// FeedState implements driver.Feed.
func (s *Source) FeedState() driver.FeedState {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	state := s.feed.state
	state.Kind = s.feed.kind()
	_, state.Failovers = s.timelines.state()
	if s.feed.missing != nil {
		state.Problem = s.feed.missing.Error()
	}
	return state
}

// kind names the established feeds. The caller holds mu.
func (f *feedStatus) kind() string {
	list := make([]string, len(f.established))
	for i, feed := range f.established {
		list[i] = feed.String()
	}
	return strings.Join(list, ",")
}

func (f *feedStatus) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.established, f.chose = nil, 0
	f.state = driver.FeedState{}
}

func (f *feedStatus) choseAt(at driver.DBTime) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chose = at
}

// report returns what a heartbeat says of the feeds.
func (s *Source) report() (kind, problem string, chose driver.DBTime) {
	state := s.FeedState()
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	return s.feed.kind(), state.Problem, s.feed.chose
}

func (f *feedStatus) setEstablished(feed Feed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.established, feed) {
		f.established = append(f.established, feed)
		slices.Sort(f.established)
	}
	f.state.Problem = ""
}

func (f *feedStatus) setEnded(feed Feed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.established = slices.DeleteFunc(f.established, func(one Feed) bool { return one == feed })
}

func (f *feedStatus) allEstablished(feeds []Feed) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(feeds, func(feed Feed) bool { return !slices.Contains(f.established, feed) })
}

// setMissing records why a feed is established and nothing announces new jobs; nil: that has ended.
func (s *Source) setMissing(what error) {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	s.feed.missing = what
}

func (s *Source) missingAnnouncement() error {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	return s.feed.missing
}

// problem records what keeps a feed from being established; nil: nothing does any more.
func (f *feedStatus) problem(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Problem = ""
	if err != nil {
		f.state.Problem = err.Error()
	}
}

func (f *feedStatus) lag(bytes int64, lag time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.LagBytes, f.state.Lag = bytes, lag
}
