package handoff

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// stagingRig returns a lane with a connection to a broker that withholds messages until their
// release, and a batch of n jobs that are due in a millisecond each.
func stagingRig(window, n int, change func(i int, job *driver.Job)) (*rig, *fakeConnection, *Batch) {
	r, c := attachedRig(2, window)
	r.carryOut(r.m.Stage(r.now, true))
	return r, c, r.admit(dueSoon(r, n, change))
}

func dueSoon(r *rig, n int, change func(i int, job *driver.Job)) driver.Batch {
	first, reach, _ := r.m.Room(n)
	b := driver.Batch{ID: 1, FirstSlot: first, Reach: reach, QoS: 2}
	for i := range n {
		job := driver.Job{ID: int64(i + 1), Topic: "t", FireAt: r.now.Database.Add(time.Duration(i+1) * time.Millisecond)}
		if change != nil {
			change(i, &job)
		}
		b.Jobs = append(b.Jobs, job)
	}
	return b
}

func receivedFor(msgs []driver.Message) []driver.Ack {
	acks := acksFor(msgs)
	for i := range acks {
		acks[i].Step = driver.Received
	}
	return acks
}

// TestStaged: everything but the release happens before the time. At the time what is due is released
// at once, together; it counts as published when the broker has answered that.
func TestStaged(t *testing.T) {
	r, c, b := stagingRig(100, 10, nil)
	sent := c.take()
	if len(sent) != 10 || sent[0].Dup {
		t.Fatalf("sent %+v", sent)
	}
	e := r.m.Acks(r.now, receivedFor(sent))
	if e.Published != 0 || len(e.News) != 1 {
		t.Errorf("counted %d as published, news %+v", e.Published, e.News)
	}
	if within := e.News[0].Within; within == 0 || within > time.Millisecond/2 {
		t.Errorf("the journal hears of it within %v, and the first is due in a millisecond", within)
	}
	r.carryOut(e)
	r.settleAll()
	if len(c.freed) > 0 {
		t.Fatalf("released %v before their time", c.freed)
	}
	r.advance(4 * time.Millisecond)
	if e = r.m.Launch(r.now, b, 0, 4); len(e.Release) != 4 || len(e.Publish) != 0 || len(e.News) != 0 {
		t.Fatalf("released %v, sent %v", e.Release, e.Publish)
	}
	r.carryOut(e)
	e = r.m.Acks(r.now, releasesFor(c.freed))
	if e.Published != 4 || len(e.Late) != 4 || e.Late[3] != 0 || e.Late[0] != 3*time.Millisecond {
		t.Errorf("counted %d, late %v", e.Published, e.Late)
	}
}

// TestStagedLeavesRoom: staging never takes all of the window, and what is due goes first.
func TestStagedLeavesRoom(t *testing.T) {
	r, c, b := stagingRig(10, 30, nil)
	staged := c.take()
	if len(staged) != 8 {
		t.Fatalf("%d of a window of 10 are staged", len(staged))
	}
	r.advance(30 * time.Millisecond)
	r.launch(r.put(2, 2), 0, 2)
	if sent := c.take(); len(sent) != 2 || sent[0].JobID != 2000 {
		t.Fatalf("beside the staged ones, those that are due: %+v", sent)
	}
	r.acks(receivedFor(staged))
	r.settleAll()
	r.launch(b, 0, 20)
	if len(c.freed) != 8 {
		t.Errorf("%d are released at once", len(c.freed))
	}
	if r, c, _ := stagingRig(1, 3, nil); len(c.take()) != 0 || !r.m.connected {
		t.Error("staged with a window of one")
	}
}

// TestNotStaged: what may expire or is large waits for its time, and so does everything where the
// broker is not known to withhold it.
func TestNotStaged(t *testing.T) {
	_, c, _ := stagingRig(100, 4, func(i int, job *driver.Job) {
		switch i {
		case 0:
			job.Expires, job.ExpiresAt = true, job.FireAt.Add(time.Hour)
		case 1:
			job.Payload = make([]byte, maxStagedBytes+1)
		case 2:
			job.FireAt = r0().Add(time.Hour)
		}
	})
	if sent := c.take(); len(sent) != 1 || sent[0].JobID != 4 {
		t.Errorf("staged %+v", sent)
	}
	r := newRig(2)
	c = newFakeConnection(100)
	r.attach(c)
	r.admit(dueSoon(r, 3, nil))
	if len(c.take()) != 0 {
		t.Error("staged at a broker that was not asked")
	}
	r.carryOut(r.m.Stage(r.now, true))
	if len(c.take()) != 3 {
		t.Error("not staged when it was")
	}
}

func r0() driver.DBTime { return newRig(2).now.Database }

// TestStagedAndDisconnected: over the next connection nothing is sent before its time, until its broker
// is known to withhold it, too. Then it is asked whether it has it still.
func TestStagedAndDisconnected(t *testing.T) {
	r, c, b := stagingRig(100, 2, nil)
	r.acks(receivedFor(c.take()[:1]))
	r.settleAll()
	r.detach(errHangUp)
	c = newFakeConnection(100)
	r.attach(c)
	if sent := c.take(); len(sent) != 0 || len(c.freed) != 0 {
		t.Fatalf("sent %+v, released %v", sent, c.freed)
	}
	r.carryOut(r.m.Stage(r.now, true))
	sent := c.take()
	if len(sent) != 2 || !sent[0].Dup || !sent[1].Dup {
		t.Fatalf("sent %+v", sent)
	}
	r.advance(time.Second)
	r.launch(b, 0, 2)
	if len(c.take()) != 0 || len(c.freed) != 0 {
		t.Fatalf("released %v before the broker has answered", c.freed)
	}
	r.acks(receivedFor(sent))
	r.settleAll()
	if len(c.freed) != 2 {
		t.Errorf("released %v", c.freed)
	}
}

// TestStagedAndLost: what a broker has withheld, and has lost with its session, was never sent: it is
// sent at its time, whatever the policy. What was to be released has an unknown outcome.
func TestStagedAndLost(t *testing.T) {
	r, c, b := stagingRig(100, 2, nil)
	r.m.cfg.FailLost = true
	r.acks(receivedFor(c.take()))
	r.settleAll()
	r.advance(time.Millisecond)
	r.launch(b, 0, 1)
	r.detach(errHangUp)
	r.carryOut(r.m.SessionLost(7))
	c = newFakeConnection(100)
	r.attach(c)
	if sent := c.take(); len(sent) != 0 || r.outcomesUnknown != 1 {
		t.Fatalf("sent %+v before its time, %d outcomes are unknown", sent, r.outcomesUnknown)
	}
	r.advance(time.Millisecond)
	r.launch(b, 1, 2)
	if sent := c.take(); len(sent) != 1 || sent[0].JobID != 2 || sent[0].Dup {
		t.Errorf("sent %+v", sent)
	}
}

// TestRecoveredWithoutItsRow: the broker may have a message whose row was deleted since. Its slot is
// freed there, and not before all of its batch are due, for that may publish it.
func TestRecoveredWithoutItsRow(t *testing.T) {
	r := newRig(2)
	claimed := dueSoon(r, 1, func(_ int, job *driver.Job) { job.Topic = "" })
	claimed.Concluded = 1
	early := r.recovered([]driver.Batch{claimed}, false)
	c := newFakeConnection(100)
	r.attach(c)
	if len(early) != 1 || len(c.freed) != 0 || len(c.take()) != 0 {
		t.Fatalf("%d wait, released %v", len(early), c.freed)
	}
	r.advance(time.Millisecond)
	r.launch(early[0].Batch, 0, 1)
	if len(c.freed) != 1 {
		t.Errorf("released %v", c.freed)
	}
}

// TestRecoveredBehindDeletedRows: messages without rows take up more than the window until their time
// has come. Then they make room, or what is before them in their batch could never be sent.
func TestRecoveredBehindDeletedRows(t *testing.T) {
	r := newRig(2)
	early := r.recovered([]driver.Batch{dueSoon(r, 60, func(i int, job *driver.Job) {
		if i > 0 {
			job.Topic = ""
		}
	})}, false)
	c := newFakeConnection(20)
	r.attach(c)
	if len(early) != 60 || len(c.freed) != 0 || len(c.take()) != 0 {
		t.Fatalf("%d wait, released %v", len(early), c.freed)
	}
	r.advance(time.Second)
	r.launch(early[0].Batch, 0, 60)
	if len(c.freed) != 59 {
		t.Fatalf("released %v", c.freed)
	}
	r.acks(releasesFor(c.freed))
	if sent := c.take(); len(sent) != 1 || sent[0].JobID != 1 {
		t.Errorf("sent %+v", sent)
	}
}

// TestStagedAndStopped: what was sent is kept until its time, the rest is handed back.
func TestStagedAndStopped(t *testing.T) {
	r, c, b := stagingRig(10, 20, nil)
	sent := c.take()
	e := r.m.HandBack()
	if e.Returned != 20-len(sent) {
		t.Fatalf("%d go back, %d were sent", e.Returned, len(sent))
	}
	r.carryOut(e)
	r.acks(receivedFor(sent))
	r.settleAll()
	r.advance(20 * time.Millisecond)
	r.launch(b, 0, 20)
	if len(c.freed) != len(sent) || len(c.take()) != 0 {
		t.Errorf("released %v", c.freed)
	}
	r.acks(releasesFor(c.freed))
	r.settleAll()
	if !r.m.Idle() {
		t.Error("the lane is not idle")
	}
}
