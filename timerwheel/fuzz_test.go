package timerwheel

import (
	"encoding/binary"
	"math"
	"testing"
)

// The fuzzer's input is a program: a byte for the start, one for the resolution, then
// operations of one byte, each followed by its argument.
const (
	opSchedule  = iota // argument: distance from now
	opAt               // argument: 8 bytes, any deadline
	opSame             // argument: a count; schedules at the latest deadline again
	opCancel           // argument: a byte, which of them
	opAdvance          // arguments: distance from now, a byte for the limit
	opBack             // argument: distance from now
	opStep             // argument: a byte for the limit
	opInside           // argument: distance from now; the next expire schedules there
	opCancelTwo        // argument: a byte; the next expire cancels
	opEvict            // argument: a byte, how many
	opCount
)

// maxFuzzEntries bounds the entries that opSame creates: the oracle is quadratic, and the fuzzer
// mistakes a run of ten seconds for a deadlock.
const maxFuzzEntries = 1500

// program reads arguments until it runs out, then zeros.
type program []byte

func (p *program) byte() byte {
	if len(*p) == 0 {
		return 0
	}
	b := (*p)[0]
	*p = (*p)[1:]
	return b
}

func (p *program) int64() int64 {
	var raw [8]byte
	*p = (*p)[copy(raw[:], *p):]
	return int64(binary.LittleEndian.Uint64(raw[:]))
}

// distance reads a byte of mantissa and one of exponent, so that two bytes express every magnitude.
func (p *program) distance() int64 {
	return int64(uint64(p.byte()) << (p.byte() % 56))
}

func FuzzWheel(f *testing.F) {
	seeds := []program{
		{},
		{0, 0, opSchedule, 0, 0, opStep, 1}, // due at once
		{0, 0, opSchedule, 63, 0, opSchedule, 64, 0, opSchedule, 65, 0, opStep, 1, opStep, 1},                                      // first boundary
		{1, 3, opSchedule, 1, 12, opSame, 50, opAdvance, 255, 11, 3, opAdvance, 1, 5, 3},                                           // cascade, bounded
		{2, 2, opAt, 255, 255, 255, 255, 255, 255, 255, 127, opAt, 0, 0, 0, 0, 0, 0, 0, 128},                                       // both ends of time
		{6, 1, opSchedule, 5, 0, opCancel, 0, opSchedule, 5, 0, opStep, 9},                                                         // reuse
		{0, 4, opSchedule, 9, 3, opInside, 0, 0, opCancelTwo, 0, opSame, 9, opAdvance, 9, 9, 99},                                   // from within
		{3, 4, opSchedule, 200, 2, opAdvance, 100, 2, 9, opBack, 9, 1, opAt, 1, opStep, 0},                                         // back, past
		{4, 5, opSchedule, 255, 55, opSchedule, 255, 50, opSchedule, 255, 40, opStep, 1},                                           // every level
		{0, 0, opSchedule, 63, 29, opStep, 0, opSchedule, 128, 4, opCancel, 0, opBack, 0, 0},                                       // left over, cancelled
		{1, 2, opSchedule, 200, 9, opSame, 90, opSchedule, 7, 1, opSame, 60, opEvict, 70, opStep, 9, opEvict, 255},                 // within slots
		{0, 0, opSchedule, 0, 0, opSame, 70, opAt, 9, opStep, 3, opEvict, 60, opSchedule, 255, 40, opEvict, 2, opAdvance, 0, 0, 9}, // what is pending
	}
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 1<<10 {
			return
		}
		runProgram(t, input)
	})
}

func runProgram(t *testing.T, p program) {
	starts := []int64{0, 1, -1, -100_000, 1 << 40, math.MinInt64, math.MaxInt64 - 1000}
	resolutions := []int64{1, 2, 7, 64, 256, 1000, math.MaxInt64}
	m := newModel(t, starts[int(p.byte())%len(starts)], resolutions[int(p.byte())%len(resolutions)])

	var inside []func()
	m.inside = func() {
		if last := len(inside) - 1; last >= 0 {
			run := inside[last]
			inside = inside[:last]
			run()
		}
	}
	ahead := func(distance int64) int64 { // from now, not beyond the end of time
		if m.oracle.now > math.MaxInt64-distance {
			return math.MaxInt64
		}
		return m.oracle.now + distance
	}
	latest := int64(0)
	for len(p) > 0 {
		switch p.byte() % opCount {
		case opSchedule:
			latest = ahead(p.distance())
			m.schedule(latest)
		case opAt:
			latest = p.int64()
			m.schedule(latest)
		case opSame:
			for range min(int(p.byte()), maxFuzzEntries-len(m.oracle.entries)) {
				m.schedule(latest)
			}
		case opCancel:
			m.cancel(int(p.byte()))
		case opAdvance:
			now := ahead(p.distance())
			m.advance(now, int(p.byte()))
		case opBack:
			m.advance(m.oracle.now-p.distance(), 100) // at MinInt64: to the end of time
		case opStep:
			m.step(int(p.byte()))
		case opEvict:
			m.evict(int(p.byte()))
			m.check()
		case opInside:
			distance := p.distance()
			inside = append(inside, func() { m.schedule(ahead(distance)) })
		case opCancelTwo:
			n := int(p.byte())
			inside = append(inside, func() { m.cancel(n); m.cancel(n) })
		}
	}
	m.drain()
}
