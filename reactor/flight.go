package reactor

// flight is the state of one slot of a lane.
//
//	         launch          send            ack
//	held ─────────────► ready ─────► sent ─────────► ended ──settle──► (free)
//	 │                   │  ▲          │
//	 │                   │  └──────────┘ connection lost: again, as DUP
//	 └───────────────────┴────► returned (stop: handed back, never sent)
type flight struct {
	job    Job
	flying *flying
	state  flightState
	// attempted tells that the message may have reached the broker: it can be sent
	// again, as DUP, but not handed back.
	attempted bool
}

type flightState uint8

const (
	free flightState = iota
	held
	ready
	sent
	ended
)

// flying is a batch on its way: claimed and not yet settled.
type flying struct {
	batch int64
	first Slot
	jobs  int // as claimed
	// kept is how many jobs, from the front, stay claimed; less than jobs once the
	// others have been handed back.
	kept  int
	ended int // of those kept
	// next is the first job that was not launched; owned by the launch pad.
	next     int
	failures []Failure
	settled  bool
}

// slot is that of the batch's i-th job.
func (f *flying) slot(i int) Slot { return slotAfter(f.first, i) }

// done reports whether every job that stays claimed has ended.
func (f *flying) done() bool { return f.ended == f.kept }
