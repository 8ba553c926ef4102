package handoff

import (
	"encoding/binary"
	"slices"
)

// States are compared, and copied, field by field.

// durableKey identifies the part of a state that remains when all instances die.
func (w *world) durableKey() string {
	k := make(keyBytes, 0, 128)
	w.durable(&k)
	for _, in := range w.in {
		in.statementKey(&k, w.round())
	}
	return string(k)
}

func (w *world) durable(k *keyBytes) {
	k.ints(int(w.next), int(w.losses), len(w.journal))
	k.ints(int(w.time), int(w.setBacks), int(w.quotas))
	k.bools(w.sessionLost, w.atPublish)
	for _, r := range w.journal {
		k.ints(int(r.id), int(r.first), int(r.job), int(r.concluded), int(r.kept)) // and all of the same round
	}
	for _, job := range w.stored {
		k.ints(int(job))
	}
	for _, f := range w.jobs {
		k.ints(int(min(f.delivered, 2)), int(min(f.failed, 1))) // larger counts make no difference
		k.bools(f.forgotten, f.beyondHelp)
	}
}

func (in *instance) statementKey(k *keyBytes, round int8) {
	k.ints(len(in.statement))
	k.bools(in.ours)
	for _, s := range in.statement {
		k.ints(int(s.BatchID), s.Concluded, s.Kept, len(s.Failures))
		k.bools(s.Done, s.Round == int64(round))
		for _, f := range s.Failures {
			k.ints(int(f.JobID))
		}
	}
}

// key identifies a state.
func (w *world) key() string {
	k := make(keyBytes, 0, 256)
	w.durable(&k)
	k.ints(int(w.owner), int(w.drops), int(w.rollbacks), int(w.connected))
	for _, in := range w.in {
		in.statementKey(&k, w.round())
		k.bools(in.dead, in.m != nil)
		k.ints(int(in.link), len(in.sent), len(in.answers), len(in.news), len(in.waiting))
		for _, p := range in.sent {
			k.ints(int(p.slot), int(p.job))
			k.bools(p.dup)
		}
		for _, a := range in.answers {
			k.ints(int(a.Slot), int(a.Step), int(a.Code))
		}
		for _, b := range in.news {
			k.ints(int(b))
		}
		for _, at := range in.waiting {
			k.ints(int(at))
		}
		if in.m != nil {
			k.bools(in.m.pace.resting(in.local))
			in.m.key(&k, w.round())
		}
	}
	return string(k)
}

type keyBytes []byte

func (k *keyBytes) ints(list ...int) {
	for _, n := range list {
		*k = binary.AppendVarint(*k, int64(n))
	}
}

func (k *keyBytes) bools(list ...bool) {
	for _, b := range list {
		if b {
			*k = append(*k, 1)
		} else {
			*k = append(*k, 0)
		}
	}
}

func (m *Machine) find(id int8) *Batch {
	for _, b := range m.batches {
		if b.id == int64(id) {
			return b
		}
	}
	return nil
}

// clone copies a machine with all its state.
func (m *Machine) clone() *Machine {
	to := *m
	to.messages, to.queue, to.batches = slices.Clone(m.messages), slices.Clone(m.queue), slices.Clone(m.batches)
	to.staging = slices.Clone(m.staging)
	to.effects, to.resend, to.beyond = Effects{}, nil, nil
	for at, b := range m.batches {
		copied := *b
		copied.failures = slices.Clone(b.failures)
		to.batches[at] = &copied
		for i := range b.jobs {
			if msg := to.at(b.slot(i)); msg.batch == b {
				msg.batch = &copied
			}
		}
	}
	return &to
}

// key adds all that affects what a machine does next.
func (m *Machine) key(k *keyBytes, round int8) {
	k.ints(int(m.head), m.inFlight, len(m.batches), len(m.queue))
	k.bools(m.connected, m.blocked, m.unreleased, m.closing, m.poison.answered, m.poison.alone)
	k.ints(min(m.poison.fruitless, 2), m.poison.singly, int(m.poison.candidate), m.poison.endings, m.pace.window)
	for _, b := range m.batches {
		k.ints(int(b.id), int(b.first), b.reach, b.jobs, b.kept, b.ended, b.concluded, b.recorded.concluded, b.recorded.kept)
		k.bools(b.announced, b.gone, b.round == int64(round))
		for _, f := range b.failures {
			k.ints(f.place)
			k.bools(f.withEnd)
		}
		for i := range b.jobs {
			msg := m.at(b.slot(i))
			k.ints(int(msg.job.ID), int(msg.state), min(msg.releases, 2)) // more than 2 make no difference
			k.bools(msg.job.Topic == "", msg.due, msg.attempted, msg.dup, msg.unsure, msg.asking, msg.withheld, msg.early)
		}
	}
	for _, s := range m.queue {
		k.ints(int(s))
	}
	k.bools(m.connection.Stages, m.connection.Withholds)
	k.ints(m.early)
	k.ints(len(m.staging))
	for _, s := range m.staging {
		k.ints(int(s))
	}
}
