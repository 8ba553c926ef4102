package handoff

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestAnyOrderMakesProgress: the jobs of a batch fall due in another order than that of their
// places, as after somebody has changed fire_at of claimed jobs and their lane was recovered; and
// the broker is over quota for some messages. The journal records the progress of a batch from its
// front, so a window that is full of messages behind the front must not keep the front from being
// sent.
func TestAnyOrderMakesProgress(t *testing.T) {
	for _, window := range []int{1, 2, 3, 20, 128, 384} {
		for _, quota := range []bool{false, true} {
			t.Run(fmt.Sprint(window, quota), func(t *testing.T) {
				for seed := range uint64(20) {
					anyOrder(t, rand.New(rand.NewPCG(seed, uint64(window))), window, quota)
				}
			})
		}
	}
}

func anyOrder(t *testing.T, random *rand.Rand, window int, quota bool) {
	t.Helper()
	r := newRig(2)
	connect := func() *fakeConnection {
		conn := newFakeConnection(window)
		conn.bad = "bad"
		r.attach(conn)
		return conn
	}
	conn := connect()
	type place struct {
		batch *Batch
		at    int
	}
	var due []place
	for id := range int64(3) {
		b := r.put(1+id, 400)
		for at := range b.Len() {
			if random.IntN(10) == 0 { // its row was deleted, or it cannot be sent
				r.m.at(b.slot(at)).job.Topic = []string{"", "bad"}[random.IntN(2)]
			}

			due = append(due, place{b, at})
		}
	}
	random.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
	refusals := 0
	for round := 0; !r.m.Idle(); round++ {
		if round > 100_000 {
			t.Fatalf("no progress: %d jobs are not due, %d messages are queued, %d in flight", len(due), len(r.m.queue), r.m.inFlight)
		}
		if random.IntN(200) == 0 {
			r.detach(errHangUp)
			conn = connect()
		}
		for range min(len(due), random.IntN(100)) {
			p := due[0]
			due = due[1:]
			r.launch(p.batch, p.at, p.at+1)
		}
		var acks []driver.Ack
		for _, m := range conn.take() {
			a := driver.Ack{Slot: m.Slot, Step: driver.Received}
			if quota && refusals < 2000 && random.IntN(4) == 0 {
				refusals++
				a.Code = driver.CodeQuotaExceeded
			}
			acks = append(acks, a)
		}
		acks = append(acks, releasesFor(conn.freed)...)
		conn.freed = nil
		if r.m.inFlight > window {
			t.Fatalf("%d messages in flight, over a window of %d", r.m.inFlight, window)
		}
		r.acks(acks)
		r.settleAll()
		r.advance(10 * time.Millisecond)
	}
}
