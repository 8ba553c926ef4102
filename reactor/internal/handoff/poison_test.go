package handoff

import (
	"errors"
	"fmt"
	"testing"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestPoison: one message makes the broker end the connection. All others are published, each
// as often as its QoS promises, and this one fails.
func TestPoison(t *testing.T) {
	silent := errors.New("connection reset by peer")
	for _, test := range []struct {
		name     string
		qos      byte
		why      error
		sessions int // at most
	}{
		{"silent, QoS 2", 2, silent, 16},
		{"silent, QoS 1", 1, silent, 16},
		{"with a reason, QoS 2", 2, &driver.DisconnectedError{Code: 0x81, Reason: "malformed packet"}, 6},
		{"with a reason, QoS 1", 1, &driver.DisconnectedError{Code: 0x90, Reason: "topic name invalid"}, 6},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newRig(test.qos)
			f := l.put(1, 40)
			poison := f.slot(17)
			l.launch(f, 0, 40)
			var failures []driver.Failure
			published := map[int64]bool{}
			sessions := 0
			for !l.m.Idle() {
				sessions++
				s := newFakeConnection(10)
				l.attach(s)
				for why := error(nil); why == nil && !l.m.Idle(); {
					var acks []driver.Ack
					for _, slot := range s.freed {
						acks = append(acks, driver.Ack{Slot: slot, Step: driver.Released})
					}
					s.freed = nil
					for _, m := range s.take() {
						if m.Slot == poison {
							why = test.why
							break
						}
						published[m.JobID] = true
						step := driver.Completed
						if m.QoS == 2 {
							step = driver.Received
						}
						acks = append(acks, driver.Ack{Slot: m.Slot, Step: step})
					}
					l.acks(acks)
					for _, settlement := range l.settleAll() {
						failures = append(failures, settlement.Failures...)
					}
					if why != nil {
						l.detach(why)
						for _, settlement := range l.settleAll() {
							failures = append(failures, settlement.Failures...)
						}
					}
				}
				if sessions > test.sessions {
					t.Fatalf("after %d sessions %d of 39 are published", sessions, len(published))
				}
			}
			if len(published) != 39 || len(failures) != 1 {
				t.Fatalf("%d published, failures %+v", len(published), failures)
			}
			if f := failures[0]; f.JobID != 1017 || !f.Final {
				t.Errorf("failed: %+v", f)
			}
			t.Logf("%d sessions", sessions)
		})
	}
}

// TestOutagesCondemnNobody: no message is given up because sessions end for other reasons, or for reasons
// that may be the broker's.
func TestOutagesCondemnNobody(t *testing.T) {
	doubted := fmt.Errorf("%w (%w)", &driver.DisconnectedError{Code: 0x83}, driver.ErrBrokerDoubted)
	for _, why := range []error{driver.ErrSessionTakenOver, fmt.Errorf("%w: in doubt", driver.ErrSessionGivenUp), doubted, &driver.DisconnectedError{Code: 0x8B}, &driver.DisconnectedError{Code: 0x97}} {
		l := newRig(2)
		f := l.put(1, 1)
		l.launch(f, 0, 1)
		for range 100 {
			s := newFakeConnection(10)
			l.attach(s)
			if len(s.take()) != 1 {
				t.Fatalf("%v: the message is not sent any more", why)
			}
			l.detach(why)
		}
	}
}
