package reactor

import (
	"context"
	"sync"

	"github.com/job-publisher/reactor/reactor/internal/wait"
)

// budget bounds the memory of payloads, in bytes, over all lanes of an instance: those that are
// claimed and not published, and those of claims that are about to be made.
//
// Large payloads have a part of their own, so that small ones never wait for them. One that is
// larger than a part is claimed when nothing else is in it. A payload lives in two more places
// for a moment: the buffer in which the driver has received it, until it is copied, and for small ones
// the session's write buffer.
//
// What a lane recovers counts, too, and comes before new claims of bulk.
type budget struct {
	// freed is set when there is more of it than before.
	freed wait.Signal

	mu           sync.Mutex
	small, large part          // guarded by mu
	recovering   int           // guarded by mu: lanes that wait for enough
	recovered    chan struct{} // guarded by mu: closed when there is more for them
}

// part is a part of the budget.
type part struct{ limit, used int }

// fits reports whether so much more can be had, or nothing is used.
func (p part) fits(bytes int) bool { return p.used == 0 || p.used+bytes <= p.limit }

const (
	smallBudget = 16 << 20
	largeBudget = 24 << 20
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
	p := &b.small
	if batch.large {
		p = &b.large
	}
	p.used -= batch.reserved
	batch.reserved = 0
	if batch.bulk && b.recovering > 0 || !p.fits(batch.bytes) {
		b.more()
		return false
	}
	p.used += batch.bytes
	batch.reserved = batch.bytes
	return true
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
	b.recovering++
	defer func() {
		b.recovering--
		b.freed.Set()
	}()
	b.freed.Set() // what is on offer is to give back what it has reserved
	for !b.small.fits(small) || !b.large.fits(large) {
		recovered := b.recovered
		b.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-recovered:
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
