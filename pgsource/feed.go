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

// Feed is how an instance hears of new jobs. Whatever it is, what it says decides nothing:
// the table is the truth, and the sweep finds what the feed did not tell.
type Feed uint8

const (
	// FeedAuto follows what the deployment has: the triggers, or the publications; where it
	// has neither, the WAL if the server and our role allow it, and else notify. While it has
	// both, which is while it changes over, it listens to both (feedswitch.go).
	FeedAuto Feed = iota
	// FeedWAL reads the server's log by logical replication: producers pay nothing.
	FeedWAL
	// FeedNotify listens to the triggers' notifications, which make producers take turns.
	FeedNotify
	// FeedPoll hears of nothing: jobs are found by the sweep, up to a loop late.
	FeedPoll
)

var feedNames = []string{"auto", "wal", "notify", "poll"}

// String returns the name used by flags and logs.
func (f Feed) String() string {
	if int(f) < len(feedNames) {
		return feedNames[f]
	}
	return fmt.Sprintf("Feed(%d)", uint8(f))
}

// MarshalText and UnmarshalText let flag and configuration parsers use Feed.
func (f Feed) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText parses what MarshalText wrote.
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
	if s.cfg.Feed == FeedAuto {
		return s.listenAuto(ctx, on)
	}
	s.feed.choseAt(noChoice)
	return s.listenTo(ctx, s.cfg.Feed, on)
}

// listenTo listens to one feed, until ctx ends or the feed breaks.
func (s *Source) listenTo(ctx context.Context, feed Feed, on func(driver.Hint)) error {
	defer s.feed.left(feed)
	stands := func(h driver.Hint) {
		if h.Kind == driver.HintConnected {
			s.feed.stands(feed)
		}
		on(h)
	}
	switch feed {
	case FeedWAL:
		return s.listenWAL(ctx, stands)
	case FeedPoll:
		stands(driver.Hint{Kind: driver.HintConnected})
		<-ctx.Done()
		return ctx.Err()
	default:
		return s.listenNotify(ctx, stands)
	}
}

// listenAuto listens to what the deployment has, and follows when that changes: what it has
// begun with is left when the other stands. Whoever changes the deployment over tells the
// membership (feedswitch.go); what somebody does by hand is noticed within a minute.
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
				continue // it was told to end
			}
			delete(a.running, r.feed)
			if len(a.running) == 0 {
				return r.err
			}
			a.lost.Fail(s.log, slog.LevelWarn, "one of two feeds is lost; trying again", "feed", r.feed.String(), "err", r.err)
			s.feed.problem(r.err)
			continue
		case <-s.lookAtFeeds:
			// Anybody may say that the membership has news, as often as he likes.
			if rest := lookPause - time.Since(looked); rest > 0 {
				time.AfterFunc(rest, s.lookAgain)
				continue
			}
		case <-tick.C:
			if s.feed.allStand(a.chosen) && !a.makeshift() {
				continue
			}
		}
		looked = time.Now()
		// If the database cannot be asked, whoever needs it will say so.
		if chosen, why, err := s.choose(ctx); err == nil {
			a.follow(ctx, chosen, why)
		}
	}
}

// lookPause is the least time between two looks at what the deployment has.
const lookPause = 250 * time.Millisecond

// autoFeed is what listenAuto listens to. It is owned by its goroutine.
type autoFeed struct {
	*Source
	running map[Feed]*running
	done    sync.WaitGroup
	ended   chan *running
	lost    ratelog.Limiter

	one sync.Mutex // on is called by one at a time
	on  func(driver.Hint)
}

// running is a feed that was started.
type running struct {
	feed Feed
	end  context.CancelFunc
	over chan struct{} // closed when it has ended
	err  error         // after its end
}

// follow starts what was chosen, and ends what was not once all of that stands.
func (a *autoFeed) follow(ctx context.Context, chosen []Feed, why string) {
	if said := names(chosen) + ": " + why; said != a.saidFeed {
		a.saidFeed = said
		level := slog.LevelInfo
		if a.lacking() != nil {
			level = slog.LevelWarn
		}
		a.log.Log(ctx, level, "how new jobs are announced", "feed", names(chosen), "because", why)
	}
	for _, feed := range chosen {
		if a.running[feed] == nil {
			a.start(ctx, feed)
		}
	}
	if !a.feed.allStand(chosen) {
		return // looked at again with the next tick
	}
	for feed, r := range a.running {
		if !slices.Contains(chosen, feed) {
			delete(a.running, feed)
			r.end()
			<-r.over // a second at most; what it leaves behind must not be taken for its successor's
		}
	}
}

// makeshift reports whether more runs than was chosen, or what was chosen is of little use.
func (a *autoFeed) makeshift() bool {
	return len(a.running) > len(a.chosen) || a.lacking() != nil
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
		case <-ctx.Done(): // it was told to end
		}
	})
}

// tell passes a hint on. The membership has news of the feeds as well.
func (a *autoFeed) tell(h driver.Hint) {
	a.one.Lock()
	defer a.one.Unlock()
	a.on(h)
	if h.Kind != driver.HintJobs {
		a.lookAgain()
	}
}

// lookAgain has what the deployment has looked at.
func (s *Source) lookAgain() {
	select {
	case s.lookAtFeeds <- struct{}{}:
	default: // it will be
	}
}

func names(feeds []Feed) string {
	list := make([]string, len(feeds))
	for i, feed := range feeds {
		list[i] = feed.String()
	}
	return strings.Join(list, " and ")
}

// noChoice is when an instance looks that has no choice.
var noChoice = driver.DBTimeOf(time.Date(9999, time.January, 1, 0, 0, 0, 0, time.UTC))

// choose says what to listen to, and why. Once something has been chosen, triggers that are
// gone are no reason to turn to the WAL: somebody may have disabled them for a moment, and the
// sweep finds what they would have told. Publications are one.
func (s *Source) choose(ctx context.Context) (feeds []Feed, why string, err error) {
	defer func() {
		if err == nil {
			s.chosen = feeds
		}
	}()
	p, err := s.provision(ctx)
	if err != nil {
		return nil, "", err
	}
	// What an earlier choice had to end has ended.
	s.feed.choseAt(p.at)
	s.lacks(nil)
	switch {
	case p.triggers && p.published:
		return []Feed{FeedNotify, FeedWAL}, "the table has triggers and publications: it is being changed over (`reactor migrate feed` finishes it)", nil
	case p.triggers:
		return []Feed{FeedNotify}, "the table has its triggers", nil
	}
	if !p.published && slices.Contains(s.chosen, FeedNotify) {
		why := "the table has lost its triggers, and the sweep has to find what is new: run psql -f sql/triggers.sql, or `reactor migrate feed wal`"
		s.lacks(errors.New(why))
		return []Feed{FeedNotify}, why, nil
	}
	obstacle, err := s.walObstacle(ctx, p)
	switch {
	case err != nil:
		return nil, "", err
	case obstacle != nil:
		why := "the table has no triggers, the WAL cannot be read, and the sweep has to find what is new: " + obstacle.Error() + "; or run psql -f sql/triggers.sql"
		s.lacks(errors.New(why))
		return []Feed{FeedNotify}, why, nil
	}
	return []Feed{FeedWAL}, "the table has no triggers, and the server lets us read its WAL", nil
}

// feedStatus is what is known of the feeds at the moment.
type feedStatus struct {
	mu    sync.Mutex
	state driver.FeedState // guarded by mu; but for Kind
	stood []Feed           // guarded by mu: those that stand, in order
	lacks error            // guarded by mu: what the deployment lacks, whatever stands
	// chose is when what the table has was looked at, for what is listened to now. Guarded by mu.
	chose driver.DBTime
}

// FeedState implements driver.Feed.
func (s *Source) FeedState() driver.FeedState {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	state := s.feed.state
	state.Kind = s.feed.kind()
	if s.feed.lacks != nil {
		state.Problem = s.feed.lacks.Error()
	}
	return state
}

// kind names the feeds that stand. The caller holds mu.
func (f *feedStatus) kind() string {
	list := make([]string, len(f.stood))
	for i, feed := range f.stood {
		list[i] = feed.String()
	}
	return strings.Join(list, ",")
}

func (f *feedStatus) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stood, f.chose = nil, 0
	f.state = driver.FeedState{}
}

func (f *feedStatus) choseAt(at driver.DBTime) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chose = at
}

// report is what a heartbeat says: all of one moment.
func (s *Source) report() (kind, problem string, chose driver.DBTime) {
	state := s.FeedState()
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	return s.feed.kind(), state.Problem, s.feed.chose
}

func (f *feedStatus) stands(feed Feed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.stood, feed) {
		f.stood = append(f.stood, feed)
		slices.Sort(f.stood)
	}
	f.state.Problem = ""
}

func (f *feedStatus) left(feed Feed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stood = slices.DeleteFunc(f.stood, func(one Feed) bool { return one == feed })
}

func (f *feedStatus) allStand(feeds []Feed) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(feeds, func(feed Feed) bool { return !slices.Contains(f.stood, feed) })
}

// lacks notes that there is a feed, and nothing that would tell it of new jobs.
func (s *Source) lacks(what error) {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	s.feed.lacks = what
}

func (s *Source) lacking() error {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	return s.feed.lacks
}

// problem says what keeps a feed from standing; nil: nothing any more.
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
