package reactor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// brief is a session that ends after a time. Nothing is sent over it.
type brief struct {
	driver.Session
	done chan struct{}
}

func briefSession(life time.Duration) *brief {
	s := &brief{done: make(chan struct{})}
	time.AfterFunc(life, func() { close(s.done) })
	return s
}

func (s *brief) Done() <-chan struct{}       { return s.done }
func (s *brief) Close(context.Context) error { return nil }

// briefSink connects secondes alone.
type briefSink struct {
	driver.Sink
	second *brief
	err    error
}

func (s briefSink) Connect(context.Context, driver.ConnectOptions) (driver.Session, error) {
	return s.second, s.err
}

// TestWatch: a connection is watched because the ones before it were short, and ends as well.
// If only this connection ends, it was taken over. If other clients' connections end too, for
// example because of the network, it was not, and the lane goes on.
func TestWatch(t *testing.T) {
	const long = time.Hour
	for name, c := range map[string]struct {
		session, second  time.Duration
		err              error // of the second
		alone, takenOver bool
		settled          bool
		took             time.Duration
	}{
		"lasts":                  {session: long, second: long, alone: true, settled: true, took: takeoverWatch},
		"lasts, second does not": {session: long, second: time.Second, alone: true, settled: true, took: takeoverWatch},
		"taken over":             {session: time.Second, second: long, takenOver: true, took: takeoverWatch},
		"both end":               {session: time.Second, second: time.Second + time.Millisecond, settled: true, took: time.Second + time.Millisecond},
		"each ends in its time":  {session: time.Second, second: 2 * time.Second, settled: true, took: 2 * time.Second},
		"second ends first":      {session: time.Second, second: time.Millisecond, settled: true, took: time.Second},
		"no second":              {session: time.Second, err: errors.New("connection refused"), settled: true, took: time.Second},
		"strangers refused":      {session: time.Second, err: &driver.ConnectRefusedError{}, takenOver: true, took: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := briefSink{err: c.err}
				if c.err == nil {
					sink.second = briefSession(c.second)
				}
				r := &laneRunner{broker: newBroker(sink)}
				for range takeoverLimit {
					r.takeovers.ended(time.Now(), time.Second)
				}
				begun := time.Now()
				alone, takenOver := r.watch(t.Context(), briefSession(c.session))
				if took := time.Since(begun); alone != c.alone || takenOver != c.takenOver || took != c.took {
					t.Errorf("alone: %v, takenOver: %v after %v, want %v, %v after %v", alone, takenOver, took, c.alone, c.takenOver, c.took)
				}
				if again := r.takeovers.watch(time.Now()) > 0; again == c.settled {
					t.Errorf("the next one is watched: %v", again)
				}
				time.Sleep(2 * long) // the sessions end
			})
		})
	}
}
