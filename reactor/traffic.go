package reactor

import "sync"

// traffic keeps one lane of an instance free of bulk: what is overdue, and large payloads.
//
// A lane sends in order, so what is due now waits for all that its lane has taken before: up to
// 4,096 messages, or 200 MB. So all lanes but one get a permit for bulk, of those that can send. The
// last one takes what is due now, and nothing else. A lane with a permit takes bulk, and what is due
// now only while it holds none; or where nobody else has taken that in time, as then the free
// lane has more than it can do. Both take turns, so neither can keep the other out.
//
// With a single lane there is nobody to leave it to. It takes both, and less bulk at once.
type traffic struct {
	mu    sync.Mutex
	lanes map[*claimer]*trafficLane // guarded by mu
}

// trafficLane is what is known of a lane.
type trafficLane struct {
	able   bool // to send
	permit bool
	holds  bool // bulk
}

// permit says how a lane is to take part until it is woken.
type permit struct {
	bulk  bool // it may take bulk
	alone bool // no other lane can send
}

// enter adds a lane, and leave removes it.
func (t *traffic) enter(c *claimer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lanes == nil {
		t.lanes = map[*claimer]*trafficLane{}
	}
	t.lanes[c] = &trafficLane{}
}

func (t *traffic) leave(c *claimer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.lanes, c)
	t.wake(c)
}

// ask notes how a lane is, and returns what it may do. A permit lasts until the lane cannot send, or
// too many have one; then whoever holds no bulk gives it up.
func (t *traffic) ask(c *claimer, able, holds bool) permit {
	t.mu.Lock()
	defer t.mu.Unlock()
	lane := t.lanes[c]
	if lane.able != able || lane.holds && !holds {
		defer t.wake(c)
	}
	lane.able, lane.holds = able, holds
	lane.permit = lane.permit && able
	others, permits := 0, 0
	for other, l := range t.lanes {
		if other != c && l.able {
			others++
			if l.permit {
				permits++
			}
		}
	}
	switch {
	case !able:
	case others == 0 || permits < others:
		lane.permit = true // somebody else is free of it
	case !holds:
		lane.permit = false
	}
	return permit{lane.permit, others == 0}
}

// wake has the other lanes ask again. The caller holds mu.
func (t *traffic) wake(but *claimer) {
	for c := range t.lanes {
		if c != but && c.wake != nil {
			c.wake()
		}
	}
}
