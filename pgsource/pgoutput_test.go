package pgsource

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The messages are built here as the plugin writes them [replication/logical/proto.c].

// message is its kind and its parts: numbers, raw bytes, and strings, which a zero ends.
func message(kind byte, parts ...any) []byte {
	m := []byte{kind}
	for _, part := range parts {
		if text, ok := part.(string); ok {
			m = append(append(m, text...), 0)
			continue
		}
		var err error
		if m, err = binary.Append(m, binary.BigEndian, part); err != nil {
			panic(err)
		}
	}
	return m
}

const anyTime = uint64(0x0123456789abcdef) // or position: what the decoder skips

func begin(xid uint32) []byte      { return message('B', anyTime, anyTime, xid) }
func commit(end uint64) []byte     { return message('C', byte(0), anyTime, end, anyTime) }
func open(xid uint32) []byte       { return message('S', xid, byte(1)) }
func shut() []byte                 { return message('E') }
func abort(xid, sub uint32) []byte { return message('A', xid, sub) }
func commitOf(xid uint32, end uint64) []byte {
	return message('c', xid, byte(0), anyTime, end, anyTime)
}

func relationOf(oid uint32, columns ...string) []byte {
	m := message('R', oid, "public", "jobs", byte('d'), uint16(len(columns)))
	for i, name := range columns {
		m = append(m, message(byte(i), name, uint32(20), int32(-1))...)
	}
	return m
}

func insert(oid uint32, row []byte) []byte { return message('I', oid, byte('N'), row) }
func update(oid uint32, row []byte) []byte { return message('U', oid, byte('N'), row) }
func updateFrom(oid uint32, which byte, old, row []byte) []byte {
	return message('U', oid, which, old, byte('N'), row)
}

func emitted(transactional byte, prefix, content string) []byte {
	return message('M', transactional, anyTime, prefix, uint32(len(content)), []byte(content))
}

func tuple(values ...[]byte) []byte {
	return message(0, uint16(len(values)), bytes.Join(values, nil))[1:]
}

var null, unchanged = []byte{'n'}, []byte{'u'}

func inText(text string) []byte { return message('t', uint32(len(text)), []byte(text)) }
func inBinary(v any) []byte     { return message('b', uint32(binary.Size(v)), v) }

// job is a row with the columns that matter.
type job struct {
	id        int64
	fireAt    driver.DBTime
	processed bool
}

var (
	y2000 = driver.DBTimeOf(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) // PostgreSQL's own epoch
	noon  = driver.DBTimeOf(time.Date(2031, 7, 8, 12, 0, 0, 0, time.UTC))
)

func due(id int64, after time.Duration) job { return job{id, noon.Add(after), false} }
func claimed(id int64) job                  { return job{id, noon, true} }

func (j job) values() (id, fireAt, processed []byte) {
	return inBinary(j.id), inBinary(int64(j.fireAt - y2000)), inBinary(j.processed)
}

// jobColumns is the order of the columns in row.
var jobColumns = []string{"id", "topic", "payload", "fire_at", "processed", "claim"}

func row(j job) []byte {
	id, fireAt, processed := j.values()
	return tuple(id, inBinary([]byte("a/b")), unchanged, fireAt, processed, null)
}

// stream is a sequence of messages from the server.
type stream = [][]byte

func transaction(xid uint32, end uint64, messages ...[]byte) stream {
	return slices.Concat(stream{begin(xid)}, messages, stream{commit(end)})
}

// block is a part of a transaction that is still open.
func block(xid uint32, messages ...[]byte) stream {
	return slices.Concat(stream{open(xid)}, messages, stream{shut()})
}

// in is a message inside of a block: the transaction, or subtransaction, it is of comes first.
func in(xid uint32, m []byte) []byte { return slices.Concat(message(m[0], xid), m[1:]) }

const jobsOID, otherOID = 16400, 16500

func jobsAre(columns ...string) []byte { return relationOf(jobsOID, columns...) }

// committed is the expected news of a commit of rows.
func committed(end pglogrepl.LSN, xid uint32, jobs ...job) news {
	w := written{xid: xid}
	for i, j := range jobs {
		if i == 0 {
			w.minID, w.maxID, w.earliest = math.MaxInt64, math.MinInt64, math.MaxInt64
		}
		w.rows++
		w.minID, w.maxID, w.earliest = min(w.minID, j.id), max(w.maxID, j.id), min(w.earliest, j.fireAt)
		w.shards = w.shards.With(shardOf(j.id))
	}
	return news{end: end, written: w}
}

// conversations are valid streams, each of which ends without an open transaction.
func conversations() map[string]struct {
	stream stream
	want   []news
} {
	jobs := jobsAre(jobColumns...)
	a, b, c := due(7, time.Hour), due(-3, time.Minute), due(1<<40, 2*time.Hour)
	past := job{id: 9, fireAt: -5} // before 1970
	aID, aFireAt, aProcessed := a.values()
	insertA, insertB, insertC := insert(jobsOID, row(a)), insert(jobsOID, row(b)), insert(jobsOID, row(c))
	oldKey := tuple(inBinary(a.id), null, null, null, null, null)
	swapped := []string{"processed", "note", "fire_at", "extra", "id"}
	return map[string]struct {
		stream stream
		want   []news
	}{
		"several rows": {
			transaction(5, 100, jobs, insertA, update(jobsOID, row(b)), insertC),
			[]news{committed(100, 5, a, b, c)},
		},
		"a time before the epochs": {
			transaction(5, 100, jobs, insert(jobsOID, row(past)), insertA),
			[]news{committed(100, 5, past, a)},
		},
		"commits share nothing but the description": {
			slices.Concat(transaction(5, 100, jobs, insertA), transaction(6, 200, insertB), transaction(8, 300)),
			[]news{committed(100, 5, a), committed(200, 6, b), committed(300, 8)},
		},
		"what is processed is left out": {
			slices.Concat(transaction(5, 100, jobs, update(jobsOID, row(claimed(1))), insertB, insert(jobsOID, row(claimed(1<<50)))),
				transaction(6, 200, update(jobsOID, row(claimed(2))))),
			[]news{committed(100, 5, b), committed(200, 6)},
		},
		"updates with what was before": {
			transaction(5, 100, jobs, updateFrom(jobsOID, 'K', oldKey, row(b)), updateFrom(jobsOID, 'O', row(claimed(6)), row(c)),
				updateFrom(jobsOID, 'O', row(a), row(claimed(6)))),
			[]news{committed(100, 5, b, c)},
		},
		"other columns, in another order": {
			transaction(5, 100, jobsAre(swapped...), insert(jobsOID, tuple(aProcessed, inBinary([]byte("12345678")), aFireAt, null, aID))),
			[]news{committed(100, 5, a)},
		},
		"the table is changed in the middle": {
			transaction(5, 100, jobs, insertB, jobsAre(swapped...), insert(jobsOID, tuple(aProcessed, null, aFireAt, unchanged, aID)), jobs, insertC),
			[]news{committed(100, 5, a, b, c)},
		},
		"two tables": {
			transaction(5, 100, relationOf(otherOID, swapped...), jobs, insertB, insert(otherOID, tuple(aProcessed, null, aFireAt, null, aID))),
			[]news{committed(100, 5, a, b)},
		},
		"a column in text that is not ours": {
			transaction(5, 100, jobs, insert(jobsOID, tuple(aID, inText("a/b"), inText(""), aFireAt, aProcessed, null))),
			[]news{committed(100, 5, a)},
		},
		"kinds that tell nothing": {
			transaction(5, 100, message('O', anyTime, "origin"), message('Y', uint32(1), "public", "mood"), jobs, insertA,
				message('D', uint32(jobsOID), byte('K'), oldKey), message('T', uint32(1), byte(0), uint32(jobsOID))),
			[]news{committed(100, 5, a)},
		},
		"blocks of two, between which others commit": {
			slices.Concat(block(7, in(7, jobs), in(7, insertA)), block(8, in(8, jobs), in(8, insertB)), transaction(9, 100, jobs, insertC),
				block(7, in(71, insertC), in(7, update(jobsOID, row(claimed(5))))), stream{commitOf(8, 200)}, transaction(10, 300, insertB), stream{commitOf(7, 400)}),
			[]news{committed(100, 9, c), committed(200, 8, b), committed(300, 10, b), committed(400, 7, a, c)},
		},
		"a block without rows of ours": {
			slices.Concat(block(7, in(7, jobs), in(7, insert(jobsOID, row(claimed(5))))), stream{commitOf(7, 100)}),
			[]news{committed(100, 7)},
		},
		// Which rows were the subtransaction's is not kept: the hint is wider than it has to be.
		"a subtransaction is aborted": {
			slices.Concat(block(7, in(7, jobs), in(7, insertA), in(71, insertB)), stream{abort(7, 71)}, block(7, in(72, insertC)), stream{commitOf(7, 100)}),
			[]news{committed(100, 7, a, b, c)},
		},
		"all is aborted": {
			slices.Concat(block(7, in(7, jobs), in(7, insertA)), block(8, in(8, jobs), in(8, insertB)), block(7, in(71, insertC)),
				stream{abort(7, 71), abort(7, 7), commitOf(8, 100)}),
			[]news{committed(100, 8, b)},
		},
		"the number of an aborted one is used again": {
			slices.Concat(block(7, in(7, jobs), in(7, insertA)), stream{abort(7, 7)}, block(7, in(7, jobs), in(7, insertB)), stream{commitOf(7, 100)},
				block(7, in(7, insertC)), stream{commitOf(7, 200)}),
			[]news{committed(100, 7, b), committed(200, 7, c)},
		},
		"messages of applications": {
			slices.Concat(stream{emitted(0, "probe", "1")}, transaction(5, 100, emitted(1, membershipChannel, ""), jobs, insertA),
				block(7, in(7, emitted(1, "probe", "in\x00side")), in(71, emitted(1, membershipChannel, "x"))), stream{emitted(0, "probe", "2"), emitted(0, membershipChannel, ""), emitted(0, "somebody", "s"), abort(7, 7)}),
			[]news{{probe: "1"}, of(committed(100, 5, a)), {probe: "in\x00side"}, {probe: "2"}},
		},
		"a message that names a job": {
			slices.Concat(transaction(5, 100, emitted(1, jobsChannel, fmt.Sprintf("1 1 %d %d", noon.Add(time.Hour), 1<<6))),
				transaction(6, 200, emitted(1, jobsChannel, "nonsense")), stream{emitted(0, jobsChannel, "1 1 1 1")}),
			[]news{{end: 100, written: written{xid: 5, rows: 1, minID: 1, maxID: 1, earliest: noon.Add(time.Hour), shards: driver.ShardSet(0).With(6)}}, committed(200, 6)},
		},
	}
}

// of says that the commit has news of the membership.
func of(n news) news {
	n.written.membership = true
	return n
}

// decodeAll returns the news of a stream. It writes over each message afterwards: the
// connection uses its memory again.
func decodeAll(d *decoder, s stream) ([]news, error) {
	var all []news
	for i, m := range s {
		m = bytes.Clone(m)
		n, err := d.decode(m)
		for j := range m {
			m[j] = 0xff
		}
		if err != nil {
			return all, fmt.Errorf("message %d: %w", i, err)
		}
		if n != (news{}) {
			all = append(all, n)
		}
	}
	return all, nil
}

func TestDecode(t *testing.T) {
	for name, test := range conversations() {
		d := newDecoder("probe")
		got, err := decodeAll(d, test.stream)
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: %+v, %v\nwant %+v", name, got, err, test.want)
		}
		if !d.settled() || len(d.parts) != 0 {
			t.Errorf("%s: settled is %t, and of open transactions there is %v", name, d.settled(), d.parts)
		}
	}
}

// TestDecodedHint has its expectation written out: SELECT hashint8(1) & 63, hashint8(-1) & 63.
func TestDecodedHint(t *testing.T) {
	got, err := decodeAll(newDecoder("probe"), transaction(5, 100, jobsAre(jobColumns...), insert(jobsOID, row(due(1, time.Hour))), insert(jobsOID, row(due(-1, time.Minute)))))
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	want := driver.Hint{Kind: driver.HintJobs, MinID: -1, MaxID: 1, Earliest: noon.Add(time.Minute), Shards: driver.ShardSet(0).With(6).With(10)}
	if hint := got[0].written.hint(); hint != want {
		t.Errorf("%+v, want %+v", hint, want)
	}
}

// TestSettled: in the middle of a transaction or a block, a position of the server does not say
// what was received.
func TestSettled(t *testing.T) {
	jobs, row := jobsAre(jobColumns...), insert(jobsOID, row(due(1, 0)))
	d := newDecoder("probe")
	if !d.settled() {
		t.Error("a new decoder is not settled")
	}
	for i, step := range []struct {
		message []byte
		want    bool
	}{
		{begin(5), false},
		{jobs, false},
		{row, false},
		{commit(100), true},
		{emitted(0, "probe", ""), true},
		{open(7), false},
		{in(7, row), false},
		{shut(), true},
		{begin(8), false},
		{commit(200), true},
		{open(7), false},
		{shut(), true},
		{commitOf(7, 300), true},
	} {
		if _, err := d.decode(step.message); err != nil || d.settled() != step.want {
			t.Errorf("after message %d, %q: %t, %v", i, step.message[0], d.settled(), err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	jobs := jobsAre(jobColumns...)
	id, fireAt, processed := due(1, 0).values()
	fields := func(id, fireAt, processed []byte) []byte {
		return insert(jobsOID, tuple(id, null, null, fireAt, processed, null))
	}
	for name, test := range map[string]struct {
		stream    stream
		malformed bool // or else the publication's fault
	}{
		"nothing":                       {stream{{}}, true},
		"a kind of a later version":     {stream{message('P', anyTime)}, true},
		"a row of an unknown table":     {stream{jobs, insert(otherOID, row(due(1, 0)))}, true},
		"an old row without a new one":  {stream{jobs, message('U', uint32(jobsOID), byte('O'), row(due(1, 0)), byte('O'), row(due(1, 0)))}, true},
		"a value of an unknown kind":    {stream{jobs, fields(id, message('x', uint32(0)), processed)}, true},
		"a value longer than all":       {stream{jobs, fields(message('b', uint32(math.MaxUint32)), fireAt, processed)}, true},
		"a string without an end":       {stream{message('R', uint32(jobsOID), []byte("public"))}, true},
		"a table without fire_at":       {stream{jobsAre("id", "topic", "payload", "due", "processed", "claim"), insert(jobsOID, row(due(1, 0)))}, false},
		"a table without id":            {stream{jobsAre("number", "topic", "payload", "fire_at", "processed", "claim"), insert(jobsOID, row(due(1, 0)))}, false},
		"a row without all the columns": {stream{jobs, insert(jobsOID, tuple(id, null, null, fireAt))}, false},
		"no id":                         {stream{jobs, fields(null, fireAt, processed)}, false},
		"fire_at that is not sent":      {stream{jobs, fields(id, unchanged, processed)}, false},
		"an id of four bytes":           {stream{jobs, fields(inBinary(int32(1)), fireAt, processed)}, false},
		"processed of two bytes":        {stream{jobs, fields(id, fireAt, inBinary(int16(0)))}, false},
		// As long as in binary, each of them.
		"id in text":        {stream{jobs, fields(inText("12345678"), fireAt, processed)}, false},
		"fire_at in text":   {stream{jobs, fields(id, inText("infinity"), processed)}, false},
		"processed in text": {stream{jobs, fields(id, fireAt, inText("f"))}, false},
	} {
		got, err := decodeAll(newDecoder("probe"), test.stream)
		if err == nil || errors.Is(err, errMalformed) != test.malformed || len(got) > 0 {
			t.Errorf("%s: %+v, %v", name, got, err)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the error is more than a line: %v", name, err)
		}
	}
}

// TestDecodeTruncated cuts each message at each length. Messages that do not concern us are not
// read, so any length is valid for them.
func TestDecodeTruncated(t *testing.T) {
	for name, conversation := range conversations() {
		for i, m := range conversation.stream {
			for length := range m {
				d := newDecoder("probe")
				if _, err := decodeAll(d, conversation.stream[:i]); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				n, err := d.decode(bytes.Clone(m[:length]))
				unread := length > 0 && bytes.IndexByte([]byte("OYDT"), m[0]) >= 0
				if n != (news{}) || unread && err != nil || !unread && !errors.Is(err, errMalformed) {
					t.Fatalf("%s: message %d, %q, cut to %d of %d bytes: %+v, %v", name, i, m[0], length, len(m), n, err)
				}
			}
		}
	}
}

// FuzzDecode decodes arbitrary messages, each after a byte with its length. After an error another
// decoder goes on, as after a new connection.
func FuzzDecode(f *testing.F) {
	for _, conversation := range conversations() {
		var input []byte
		for _, m := range conversation.stream {
			if len(m) > math.MaxUint8 {
				f.Fatalf("a message of %d bytes", len(m))
			}
			input = append(append(input, byte(len(m))), m...)
		}
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		d := newDecoder("probe")
		received := map[byte]int{} // by kind
		within, inBlock := false, false
		for len(input) > 0 {
			length := min(int(input[0]), len(input)-1)
			m := bytes.Clone(input[1 : 1+length])
			input = input[1+length:]
			n, err := d.decode(m)
			if err != nil {
				if n != (news{}) {
					t.Fatalf("%v, and %+v", err, n)
				}
				d, received, within, inBlock = newDecoder("probe"), map[byte]int{}, false, false
				continue
			}
			kind := m[0]
			received[kind]++
			switch kind {
			case 'B', 'C':
				within = kind == 'B'
			case 'S', 'E':
				inBlock = kind == 'S'
			}
			if d.settled() != (!within && !inBlock) {
				t.Fatalf("after %q, settled is %t", kind, d.settled())
			}
			if len(d.parts) > received['S'] || len(d.relations) > received['R'] || len(n.probe) > len(m) {
				t.Fatalf("%d parts, %d relations and %d bytes of %v", len(d.parts), len(d.relations), len(n.probe), received)
			}
			checkWritten(t, n.written, received['I']+received['U']+received['M'], received['M'] > 0)
		}
	})
}

// checkWritten checks what must be true of every commit.
func checkWritten(t *testing.T, w written, most int, named bool) {
	t.Helper()
	if w.rows == 0 {
		if w != (written{xid: w.xid, membership: w.membership}) {
			t.Fatalf("no rows: %+v", w)
		}
		return
	}
	if w.rows > most || w.minID > w.maxID || w.shards.Len() == 0 {
		t.Fatalf("of %d rows: %+v", most, w)
	}
	if named { // somebody's message may say anything of the shards
		return
	}
	if w.shards.Len() > w.rows || !w.shards.Has(shardOf(w.minID)) || !w.shards.Has(shardOf(w.maxID)) {
		t.Fatalf("of %d rows: %+v", most, w)
	}
}

func TestParseSnapshot(t *testing.T) {
	for text, want := range map[string]snapshot{
		"10:10:":         {10, 10, nil},
		"10:20:10":       {10, 20, []uint32{10}},
		"10:20:10,14,19": {10, 20, []uint32{10, 14, 19}},
		// The number of times that they wrapped around is in the upper half.
		"21474836479:21474836481:21474836479,21474836480": {math.MaxUint32, 1, []uint32{math.MaxUint32, 0}},
		"18446744073709551615:18446744073709551615:":      {math.MaxUint32, math.MaxUint32, nil},
	} {
		got, err := parseSnapshot(text)
		if err != nil || got.min != want.min || got.max != want.max || !slices.Equal(got.open, want.open) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "10", "10:20", "10:20:30:40", ":20:", "10::", "10:20:,", "10:20:11,", "10:20:x", "-1:20:", "1e1:20:", " 10:20:", "18446744073709551616:1:"} {
		if got, err := parseSnapshot(bad); err == nil {
			t.Errorf("%q is taken for %+v", bad, got)
		}
	}
}

// TestSnapshotShows, too, with numbers that wrap around at 2³².
func TestSnapshotShows(t *testing.T) {
	const half = 1 << 31
	for _, base := range []uint32{1000, half - 10, half, math.MaxUint32 - 25, math.MaxUint32 - 10, 0} {
		s := snapshot{min: base + 10, max: base + 20, open: []uint32{base + 10, base + 15}}
		for distance, want := range map[uint32]bool{
			0: true, 9: true, 10: false, 11: true, 14: true, 15: false, 16: true, 19: true, 20: false, 21: false,
			half + 9: false, half + 10: true, // as far away as they get
		} {
			if got := s.shows(base + distance); got != want {
				t.Errorf("%+v, %d: %t", s, base+distance, got)
			}
		}
	}
	quiet := snapshot{min: 5, max: 5}
	if !quiet.shows(4) || quiet.shows(5) || !quiet.shows(math.MaxUint32) {
		t.Error("with nothing open, all before is over, and nothing else")
	}
}

// BenchmarkDecode decodes a commit.
func BenchmarkDecode(b *testing.B) {
	for _, rows := range []int{1, 1000} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			d := newDecoder("probe")
			if _, err := d.decode(jobsAre(jobColumns...)); err != nil {
				b.Fatal(err)
			}
			var messages stream
			for i := range rows {
				messages = append(messages, insert(jobsOID, row(due(int64(i), time.Hour))))
			}
			messages = transaction(5, 100, messages...)
			b.ReportAllocs()
			for b.Loop() {
				var last news
				for _, m := range messages {
					var err error
					if last, err = d.decode(m); err != nil {
						b.Fatal(err)
					}
				}
				if last.written.rows != rows {
					b.Fatal(last)
				}
			}
		})
	}
}
