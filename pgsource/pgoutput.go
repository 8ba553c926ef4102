package pgsource

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"

	"github.com/job-publisher/reactor/reactor/driver"
)

// decoder reads what the server's plugin pgoutput sends, in version 2 of its protocol and in binary
// [PostgreSQL documentation, Logical Replication Message Formats], and returns what each commit has
// written. It does no I/O: messages go in, news comes out.
//
// It keeps a few numbers for each transaction, however many rows the transaction writes. A large
// transaction arrives in blocks while it is still open, between the blocks of others; the number of
// such transactions is bounded by the server's connections.
//
// pglogrepl has a decoder, too. It copies each value and trusts each length that it reads: a
// message that is cut off makes it panic.
type decoder struct {
	probes     string // the prefix of the messages that we send ourselves
	membership string // the prefix of the messages that shards or lanes have a new owner
	named      string // the prefix of the messages that name jobs
	relations  map[uint32]relation
	whole      written            // by the transaction that arrives in one piece
	within     bool               // that transaction has begun and is not committed yet
	parts      map[uint32]written // by the transactions that arrive in blocks, by xid
	block      uint32             // the transaction of the current block
	inBlock    bool
}

// written summarizes what a transaction has written that may concern us: its unprocessed rows.
type written struct {
	xid          uint32 // the transaction's
	rows         int
	minID, maxID int64
	earliest     driver.DBTime
	shards       driver.ShardSet
	membership   bool // it announces that shards or lanes have a new owner
}

// concerns reports whether anything in it concerns us.
func (w *written) concerns() bool { return w.rows > 0 || w.membership }

// add notes a row.
func (w *written) add(id int64, fireAt driver.DBTime) {
	if w.rows == 0 {
		w.minID, w.maxID, w.earliest = id, id, fireAt
	}
	w.rows++
	w.minID, w.maxID, w.earliest = min(w.minID, id), max(w.maxID, id), min(w.earliest, fireAt)
	w.shards = w.shards.With(shardOf(id))
}

// include notes the rows of a hint.
func (w *written) include(h driver.Hint) {
	if w.rows == 0 {
		w.minID, w.maxID, w.earliest = h.MinID, h.MaxID, h.Earliest
	}
	w.rows++
	w.minID, w.maxID, w.earliest = min(w.minID, h.MinID), max(w.maxID, h.MaxID), min(w.earliest, h.Earliest)
	if h.Shards == 0 {
		h.Shards = driver.AllShards
	}
	w.shards |= h.Shards
}

// hint returns the hint for the loader.
func (w *written) hint() driver.Hint {
	return driver.Hint{Kind: driver.HintJobs, MinID: w.minID, MaxID: w.maxID, Earliest: w.earliest, Shards: w.shards}
}

// news is the content of one message. For most messages it is empty.
type news struct {
	// end is the position behind a commit in the WAL: everything before it was received. 0: the
	// message is no commit.
	end pglogrepl.LSN
	// written is what that commit has written; without rows, nothing that concerns us.
	written written
	// probe is the content of a message by pg_logical_emit_message with our prefix.
	probe string
}

// relation says at which positions the rows of a table have our columns; -1 where a column is
// missing.
type relation struct{ id, fireAt, processed int }

var errMalformed = errors.New("the WAL sender's message is malformed, or of a version that is not known")

func newDecoder(probes string) *decoder {
	return &decoder{probes: probes, membership: membershipChannel, named: jobsChannel, relations: map[uint32]relation{}, parts: map[uint32]written{}}
}

// settled reports whether no transaction is half received. Then a position that the server names is
// behind everything that was received.
func (d *decoder) settled() bool { return !d.within && !d.inBlock }

// decode takes the next message.
func (d *decoder) decode(message []byte) (news, error) {
	if len(message) == 0 {
		return news{}, errMalformed
	}
	r := reader{rest: message[1:]}
	var n news
	switch kind := message[0]; kind {
	case 'B': // begin: position, time, xid
		r.skip(16)
		d.whole, d.within = written{xid: r.uint32()}, true
	case 'C':
		r.skip(1)
		n = d.commit(&r, d.whole)
		d.whole, d.within = written{}, false
	case 'S': // a block begins
		d.block, d.inBlock = r.uint32(), true
		r.skip(1)
	case 'E':
		d.inBlock = false
	case 'c': // commit of a transaction that came in blocks
		xid := r.uint32()
		r.skip(1)
		part := d.parts[xid]
		part.xid = xid
		n = d.commit(&r, part)
		delete(d.parts, xid)
	case 'A': // abort of such a transaction, or of a subtransaction: then our summary covers too much, which is harmless
		if xid, part := r.uint32(), r.uint32(); xid == part {
			delete(d.parts, xid)
		}
	case 'R':
		d.xid(&r)
		d.relation(&r)
	case 'I', 'U':
		d.xid(&r)
		if err := d.row(&r); err != nil {
			return news{}, err
		}
	case 'M':
		d.xid(&r)
		n.probe = d.message(&r)
	case 'O', 'Y', 'D', 'T': // origin, type, delete, truncate
	default:
		return news{}, fmt.Errorf("%w: kind %q", errMalformed, kind)
	}
	if r.short {
		return news{}, fmt.Errorf("%w: kind %q, %d bytes", errMalformed, message[0], len(message))
	}
	return n, nil
}

// message returns the content of our own probes. A change of the membership, and jobs that are named in
// a message, are announced with its commit, when that is visible. The messages of others are skipped, whatever their size.
func (d *decoder) message(r *reader) (probe string) {
	const transactional = 1
	flags := r.byte()
	r.skip(8) // position
	prefix := r.string()
	content := r.bytes(int(r.uint32()))
	switch {
	case prefix == d.probes:
		return string(content)
	case prefix == d.membership && flags&transactional != 0:
		d.change(func(w *written) { w.membership = true })
	case prefix == d.named && flags&transactional != 0:
		// Jobs whose turn it is (followSQL). Anybody can send such a message; one that cannot be read costs
		// nothing.
		if hint, err := parseHint(string(content)); err == nil {
			d.change(func(w *written) { w.include(hint) })
		}
	}
	return ""
}

// change adds to the summary of the transaction that the message belongs to.
func (d *decoder) change(add func(*written)) {
	if !d.inBlock {
		add(&d.whole)
		return
	}
	part := d.parts[d.block]
	add(&part)
	d.parts[d.block] = part
}

// xid skips the transaction id that begins a message within a block. It may be that of a
// subtransaction.
func (d *decoder) xid(r *reader) {
	if d.inBlock {
		r.skip(4)
	}
}

// commit reads the position, the end and the time of a commit.
func (d *decoder) commit(r *reader, w written) news {
	r.skip(8)
	n := news{end: pglogrepl.LSN(r.uint64()), written: w}
	r.skip(8)
	return n
}

// relation reads the description of a table, which comes before its first row and after each
// change.
func (d *decoder) relation(r *reader) {
	oid := r.uint32()
	r.string() // schema
	r.string() // table
	r.skip(1)  // replica identity
	columns := relation{-1, -1, -1}
	for i := range int(r.uint16()) {
		r.skip(1) // part of the key
		switch r.string() {
		case "id":
			columns.id = i
		case "fire_at":
			columns.fireAt = i
		case "processed":
			columns.processed = i
		}
		r.skip(8) // type
		if r.short {
			return
		}
	}
	d.relations[oid] = columns
}

// row reads an insert or an update: the table, for some updates the old row or its key, and the new
// row.
func (d *decoder) row(r *reader) error {
	columns, known := d.relations[r.uint32()]
	if !known {
		return fmt.Errorf("%w: a row of a table that was not described", errMalformed)
	}
	which := r.byte()
	if which == 'K' || which == 'O' {
		for range r.uint16() {
			r.value()
		}
		which = r.byte()
	}
	if which != 'N' {
		return fmt.Errorf("%w: a row without its new version", errMalformed)
	}
	var id, fireAt, processed []byte
	for i := range int(r.uint16()) {
		value := r.value()
		switch i {
		case columns.id:
			id = value
		case columns.fireAt:
			fireAt = value
		case columns.processed:
			processed = value
		}
	}
	if r.short {
		return nil // decode reports it
	}
	if len(id) != 8 || len(fireAt) != 8 || len(processed) != 1 {
		return errors.New("a row comes without id, fire_at and processed in binary: drop the publications of reactor, and it creates them again")
	}
	if processed[0] != 0 {
		return nil // a claim, mostly our own: nothing to announce
	}
	d.change(func(w *written) {
		w.add(int64(binary.BigEndian.Uint64(id)), fromPostgresTime(int64(binary.BigEndian.Uint64(fireAt))))
	})
	return nil
}

// fromPostgresTime converts microseconds since 2000, the server's own format. The table allows no
// infinity, and the addition wraps around only for values that no timestamp has.
func fromPostgresTime(microseconds int64) driver.DBTime {
	const from1970To2000 = 946_684_800_000_000
	return driver.DBTime(microseconds + from1970To2000)
}

// reader reads the parts of a message. If a part is missing, short becomes true, and all reads
// return zeros.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.short, r.rest = true, nil
		return nil
	}
	part := r.rest[:n]
	r.rest = r.rest[n:]
	return part
}

func (r *reader) skip(n int) { r.bytes(n) }

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// string reads a text that ends with a zero byte.
func (r *reader) string() string {
	end := bytes.IndexByte(r.rest, 0)
	text := r.bytes(end)
	r.skip(1)
	return string(text)
}

// value reads a column in binary. It returns nil if the column is NULL, is text, or was not changed
// and not sent because of its size. A text can be as long as a binary number, so it must not be
// read as one.
func (r *reader) value() []byte {
	switch r.byte() {
	case 'n', 'u':
	case 't':
		r.skip(int(r.uint32()))
	case 'b':
		return r.bytes(int(r.uint32()))
	default:
		r.short = true
	}
	return nil
}
