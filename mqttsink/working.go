package mqttsink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// A broker may accept CONNECT and fail at everything after it: its disk is full, its cluster has no
// majority, a proxy answers in its place. So an accepted connection does not count as a success of the
// broker in use.
//
//	a session has worked      it has received an answer to a message that refuses nothing. At QoS 0, where
//	                          messages have no answers, that is the answer to a ping sent behind one. An
//	                          answer to SUBSCRIBE is none: a broker that closes the connection at each
//	                          message may give it.
//	a session was fruitless   it has ended without having worked, and neither was it closed by us nor taken
//	                          over. One that has answered pings, and owed no answer to a message, was idle,
//	                          and says nothing.
//
// Fruitless sessions at the broker in use begin a doubt. It ends when a message of any lane is answered, and
// not by a ping: an idle lane pings a broker that fails at each message. While it lasts the broker is
// asked (suspicion.go).
//
// A session may also last, and its broker answer pings and none of the messages that were sent before them. That
// begins a doubt as well, after a while. A slow line does not: what is still on it is before the ping.
//
// Until a broker in doubt is known to work, the end of a fruitless session is no evidence against the message
// that was sent over it (driver.ErrBrokerDoubted). Else a broker with a full disk would have good jobs given
// up before the next one is tried. With one broker there is nothing to wait for, and nobody is asked.

const (
	// answersLinger: an answer that comes so soon after the doubt has begun may have been on its way before.
	answersLinger = time.Second
	// vouchedFor is for how long after it was found to work a broker is not to blame for fruitless sessions, and
	// vouchers for how many of them: it may fail from then on, and a good message is given up after a few.
	vouchedFor = 30 * time.Second
	vouchers   = 2
	// leastIgnored is for how long at least a broker ignores messages before it is in doubt: it may be slow.
	leastIgnored = 10 * time.Second
)

// fruitless reports whether a session that has ended says something against its broker, and whether the broker
// has owed an answer to a message then.
func (s *session) fruitless() (fruitless, owed bool) {
	s.mu.Lock()
	owed, err := s.unanswered > 0 || s.proof.Load() != 0, s.err
	s.mu.Unlock()
	switch {
	case s.worked, s.referred, strings.HasPrefix(s.clientID, driver.ProbePrefix):
		return false, owed
	case errors.Is(err, errClosed), errors.Is(err, driver.ErrSessionTakenOver), errors.Is(err, driver.ErrSessionGivenUp), errors.Is(err, context.Canceled):
		return false, owed
	case errors.Is(err, context.DeadlineExceeded): // we have closed it, and the broker was slow to: unless it was silent all the time
		return !s.heard, owed
	}
	return owed || s.pongs == 0, owed
}

// ended notes how a session has ended. Its own goroutine calls it, before the lane learns of the end.
func (c *choice) ended(s *session) {
	fruitless, owed := s.fruitless()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, s)
	if !fruitless || len(c.brokers) < 2 {
		return
	}
	switch {
	case s.via != c.brokers[c.at]:
		if _, noted := c.behind[s.clientID]; !noted && owed { // else it may have ended for another reason, and connects once more
			c.behind[s.clientID] = time.Now()
		}
	case c.at == c.home && c.fruitless.IsZero():
		c.doubt(time.Now())
	}
	if s.via == c.brokers[c.at] && s.via.vouchers > 0 && time.Since(s.via.vouched) <= vouchedFor {
		s.via.vouchers--
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = fmt.Errorf("%w (%w)", s.err, driver.ErrBrokerDoubted)
}

// ignores begins a doubt about the broker in use if it has ignored the messages of a session for long. It reports
// whether the session has to end because of that, where it is at a broker that a return has left.
func (c *choice) ignores(s *session) bool {
	s.mu.Lock()
	since := s.ignored
	s.mu.Unlock()
	if len(c.brokers) < 2 || since.IsZero() || time.Since(since) < max(c.after, leastIgnored) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.at != c.home:
		return false
	case s.via != c.brokers[c.at]:
		c.behind[s.clientID] = since
		return true
	case c.fruitless.IsZero() && time.Since(s.via.vouched) > vouchedFor:
		c.doubt(since)
	}
	return false
}

// noteWork notes that a message of a session was answered: the first one, and any while the broker in use is
// in doubt. The reading goroutine calls it.
func (s *session) noteWork() {
	s.worked = true
	c := s.via.choice
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.behind, s.clientID)
	if c.doubted.Load() && s.via == c.brokers[c.at] && time.Since(c.fruitless) >= answersLinger {
		c.trust(s.via)
	}
}

// notePong notes the answer to a ping. The reading goroutine calls it.
func (s *session) notePong() {
	s.pongs++
	if first := s.proof.Load(); first > 0 && s.pongs >= first {
		s.proof.Store(0)
		s.noteWork()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pinged > 0 && s.pongs >= s.pinged && s.ignored.IsZero() {
		s.ignored = time.Now()
	}
}

// doubt begins a doubt about the broker in use, or ends it, with a time of zero. The caller holds mu.
func (c *choice) doubt(since time.Time) {
	c.fruitless = since
	c.doubted.Store(!since.IsZero())
	c.unfit = time.Time{}
}

// trust ends the doubt about the broker in use, which works. The caller holds mu.
func (c *choice) trust(b *broker) {
	b.vouched, b.vouchers = time.Now(), vouchers
	c.doubt(time.Time{})
}
