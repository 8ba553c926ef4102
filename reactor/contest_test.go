package reactor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// brief is a session that nothing is sent over, and that ends after a while.
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

// briefSink connects witnesses alone.
type briefSink struct {
	driver.Sink
	witness *brief
	err     error
}

func (s briefSink) Connect(context.Context, driver.ConnectOptions) (driver.Session, error) {
	return s.witness, s.err
}

// TestWatch: a connection that is watched, for others before it were short, and that ends as
// well. It was taken over if it ends alone. If nobody's connections last, as where the network
// comes and goes, nobody is suspected of anything, and the lane goes on.
func TestWatch(t *testing.T) {
	const long = time.Hour
	for name, c := range map[string]struct {
		session, witness time.Duration
		err              error // of the witness
		alone, evicted   bool
		acquitted        bool
		took             time.Duration
	}{
		"lasts":                   {session: long, witness: long, alone: true, acquitted: true, took: contestWatch},
		"lasts, witness does not": {session: long, witness: time.Second, alone: true, acquitted: true, took: contestWatch},
		"taken over":              {session: time.Second, witness: long, evicted: true, took: contestWatch},
		"both end":                {session: time.Second, witness: time.Second + time.Millisecond, acquitted: true, took: time.Second + time.Millisecond},
		"each ends in its time":   {session: time.Second, witness: 2 * time.Second, acquitted: true, took: 2 * time.Second},
		"witness ends first":      {session: time.Second, witness: time.Millisecond, acquitted: true, took: time.Second},
		"no witness":              {session: time.Second, err: errors.New("connection refused"), acquitted: true, took: time.Second},
		"strangers refused":       {session: time.Second, err: &driver.ConnectRefusedError{}, evicted: true, took: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := briefSink{err: c.err}
				if c.err == nil {
					sink.witness = briefSession(c.witness)
				}
				r := &laneRunner{incarnation: &incarnation{Reactor: &Reactor{sink: sink}}}
				for range contestLimit {
					r.contest.ended(time.Now(), time.Second)
				}
				begun := time.Now()
				alone, evicted := r.watch(t.Context(), briefSession(c.session))
				if took := time.Since(begun); alone != c.alone || evicted != c.evicted || took != c.took {
					t.Errorf("alone: %v, evicted: %v after %v, want %v, %v after %v", alone, evicted, took, c.alone, c.evicted, c.took)
				}
				if again := r.contest.watch(time.Now()) > 0; again == c.acquitted {
					t.Errorf("the next one is watched: %v", again)
				}
				time.Sleep(2 * long) // the sessions end
			})
		})
	}
}
