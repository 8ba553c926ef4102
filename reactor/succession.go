package reactor

// What a lane takes over from the journal, and what it does when the broker has
// forgotten the session that the journal speaks of.

// recovered takes in what an earlier owner of the lane left in the journal: each of
// its messages may or may not have reached the broker. lost tells that the broker has
// no session any more to resume.
func (l *lane) recovered(batches []Batch, lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range batches {
		f := l.take(b)
		for i := range b.Jobs {
			s := f.slot(i)
			fl := l.at(s)
			fl.state, fl.attempted, fl.dup = ready, true, true
			switch {
			case b.QoS == 0:
				// Promised at most once; and it may have been once already.
				l.end(s, &Failure{Reason: "outcome unknown: the instance that claimed it stopped before it was settled, and at-most-once does not try again", Final: true})
			case b.QoS == 2 && lost:
				l.queue = l.outcomeUnknown(s, l.queue)
			case b.QoS == 2 && (i < b.Settled || fl.job.Topic == ""):
				// The broker has it, or, its row deleted, may have it: either way the slot must be
				// freed there before another message can use it.
				fl.state = releasing
			default:
				l.queue = append(l.queue, s)
			}
		}
		l.report(f)
	}
}

// outcomeUnknown deals with a message that the broker may have passed on or lost,
// together with its session. It returns the queue, with the slot if it is to be sent
// again.
func (l *lane) outcomeUnknown(s Slot, queue []Slot) []Slot {
	fl := l.at(s)
	if fl.job.Topic == "" { // deleted, or the place of one that failed
		l.end(s, nil)
		return queue
	}
	l.stats.outcomesUnknown.Add(1)
	if l.onLoss == Fail {
		l.end(s, &Failure{Reason: "outcome unknown: the broker lost its session state while the message was on its way, and --on-session-loss is fail", Final: true})
		return queue
	}
	fl.state, fl.dup = ready, false
	return append(queue, s)
}

// lose deals with a broker that has lost our session. The journal has been told (round)
// that what it says of the QoS 2 batches is void.
func (l *lane) lose(round int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var again, rest []Slot
	for _, s := range l.queue {
		if fl := l.at(s); fl.flying.qos != 2 || !fl.attempted {
			rest = append(rest, s)
		}
	}
	for _, f := range l.batches {
		if f.qos != 2 || f.settled {
			continue
		}
		f.round, f.marked, f.front = round, 0, 0
		for i := range f.kept {
			if fl := l.at(f.slot(i)); fl.attempted && fl.state != ended {
				again = l.outcomeUnknown(f.slot(i), again)
			}
		}
	}
	l.queue = append(again, rest...)
	for _, f := range l.batches {
		if !f.settled {
			l.report(f)
		}
	}
}

// exposed reports whether anything depends on the broker's memory of our slots.
func (l *lane) exposed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.batches {
		if f.qos == 2 && !f.settled {
			return true
		}
	}
	return false
}
