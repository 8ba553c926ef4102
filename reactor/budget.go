package reactor

import (
	"context"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
)

// budget bounds the memory of payloads, in bytes, over all lanes of an instance: those that are
// claimed and not published, and those of claims that are about to be made.
//
// Large payloads have a part of their own, so that small ones never wait for them. One that is
// larger than a part is claimed when nothing else is in it. A payload lives in two more places
// for a moment: the buffer in which the driver has received it, until it is copied, and for small ones
// the session's write buffer.
//
// Bulk leaves a part of the small ones' to what is due now: what a lane holds counts also while that has
// no connection, and the others go on meanwhile.
//
// What a lane recovers counts, too, and comes before new claims of bulk. What is due now does not wait
// for it, except for a moment (yieldAfter): under a steady load it would never find room.
type budget struct {
	// freed is set when there is more of it than before.
	freed wait.Signal

	mu           sync.Mutex
	small, large part          // guarded by mu
	recovering   int           // guarded by mu: lanes that wait for enough
	waitingSince time.Time     // guarded by mu: when one of them began to wait, or the last has got enough
	recovered    chan struct{} // guarded by mu: closed when there is more for them
}

// part is a part of the budget.
type part struct{ limit, used int }

// fits reports whether so much more can be had, and leaves so much, or nothing is used.
func (p part) fits(bytes, leaves int) bool { return p.used == 0 || p.used+bytes <= p.limit-leaves }

const (
	smallBudget = 16 << 20
	largeBudget = 24 << 20
	// bulkLeaves is the share of the small ones' part that bulk leaves, one in so many.
	bulkLeaves = 8
	// yieldAfter is how long a lane waits for enough to recover until what is due now waits for it, and
	// how long at most that does: much longer than what is on its way to a broker that answers.
	yieldAfter = time.Second
)

func newBudget(small, large int) *budget {
	return &budget{freed: wait.NewSignal(), small: part{limit: small}, large: part{limit: large}, recovered: make(chan struct{})}
}

// reserve reserves what a batch needs, and reports whether it has it. A batch that has grown needs
// more than it has.
func (b *budget) reserve(batch *due) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p, leaves := &b.small, 0
	if batch.large {
		p = &b.large
	} else if batch.bulk {
		leaves = p.limit / bulkLeaves
	}
	p.used -= batch.reserved
	batch.reserved = 0
	if b.recovering > 0 && (batch.bulk || b.yields()) || !p.fits(batch.bytes, leaves) {
		b.more()
		return false
	}
	p.used += batch.bytes
	batch.reserved = batch.bytes
	return true
}

// yields reports whether what is due now waits for a lane that recovers. The caller holds mu.
func (b *budget) yields() bool {
	waited := time.Since(b.waitingSince)
	return waited >= yieldAfter && waited < 2*yieldAfter
}

// release gives back what a batch has reserved: its claim has ended.
func (b *budget) release(batch due) {
	if batch.large {
		b.change(0, -batch.reserved)
	} else {
		b.change(-batch.reserved, 0)
	}
}

// change notes that so much more is used, or less.
func (b *budget) change(small, large int) {
	if b == nil || small == 0 && large == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.small.used += small
	b.large.used += large
	if small < 0 || large < 0 {
		b.freed.Set()
		b.more()
	}
}

// more tells those that recover. The caller holds mu.
func (b *budget) more() {
	if b.recovering > 0 {
		close(b.recovered)
		b.recovered = make(chan struct{})
	}
}

// await reserves what a lane is about to recover, as soon as there is room for it, and returns what
// gives it back; nil if ctx has ended.
func (b *budget) await(ctx context.Context, small, large int) (release func()) {
	if b == nil || small == 0 && large == 0 {
		return func() {}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.recovering++; b.recovering == 1 {
		b.waitingSince = time.Now()
	}
	defer func() {
		b.recovering--
		b.waitingSince = time.Now()
		b.freed.Set()
	}()
	// What is on offer gives back what it has reserved: bulk at once, and the rest when it yields. That
	// is offered again when it does not yield any more.
	yield := time.NewTicker(yieldAfter)
	defer yield.Stop()
	b.freed.Set()
	for !b.small.fits(small, 0) || !b.large.fits(large, 0) {
		recovered := b.recovered
		b.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-recovered:
		case <-yield.C:
			b.freed.Set()
		}
		b.mu.Lock()
		if ctx.Err() != nil {
			return nil
		}
	}
	b.small.used += small
	b.large.used += large
	return func() { b.change(-small, -large) }
}
