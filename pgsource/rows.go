package pgsource

import (
	"bytes"
	"encoding/binary"
	"math"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// claimReader reads the rows of a claim: (batch, qos, id, topic, payload, payload_bytes, fire_at,
// expires_at, properties, mixed, ordered, time).
// All topics of a batch go into one piece of memory, and all payloads into another, each of exactly
// the needed size: a batch costs a few allocations, whatever its size.
//
// The texts are first collected in buffers that the next claim uses again, because their total size
// is known only at the end.
type claimReader struct {
	topics, payloads []byte
	ends             []textEnds
}

// textEnds are the positions at which the texts of a job end.
type textEnds struct{ topic, payload int }

const (
	// ownMemory is the length in bytes from which on a payload gets memory of its own: it is copied
	// only once, and is not kept in memory by the other payloads of its batch.
	ownMemory = 4 << 10
	// maxKeptTexts is the largest size of buffers, in bytes, that are used again.
	maxKeptTexts = 1 << 20
)

var claimReaders = sync.Pool{New: func() any { return new(claimReader) }}

func readClaim(rows pgx.Rows, batch *driver.Batch) error {
	r := claimReaders.Get().(*claimReader)
	r.topics, r.payloads, r.ends = r.topics[:0], r.payloads[:0], r.ends[:0]
	err := r.read(rows, batch)
	if cap(r.topics)+cap(r.payloads) <= maxKeptTexts {
		claimReaders.Put(r)
	}
	return err
}

func (r *claimReader) read(rows pgx.Rows, batch *driver.Batch) error {
	defer rows.Close()
	for rows.Next() {
		// The values are in PostgreSQL's binary format, in the buffer in which they were received:
		// integers are big-endian, a timestamptz is the number of microseconds since 2000, and a
		// text is its bytes. pgx requests this format in every mode that New accepts.
		v := rows.RawValues()
		job := driver.Job{ID: binaryInt(v[2]), FireAt: binaryTime(v[6])}
		if v[7] != nil {
			job.ExpiresAt, job.Expires = binaryTime(v[7]), true
		}
		if v[8] != nil {
			if err := readProperties(v[8], &job); err != nil {
				return err
			}
		}
		batch.ID, batch.QoS, batch.Mixed, batch.Ordered, batch.At = binaryInt(v[0]), v[1][1], v[9][0] == 1, v[10][0] == 1, binaryTime(v[11])
		r.topics = append(r.topics, v[3]...)
		payload := v[4]
		if v[5] != nil {
			payload = v[5]
		}
		if len(payload) >= ownMemory {
			job.Payload = bytes.Clone(payload)
		} else {
			r.payloads = append(r.payloads, payload...)
		}
		r.ends = append(r.ends, textEnds{len(r.topics), len(r.payloads)})
		batch.Jobs = append(batch.Jobs, job)
	}
	topics, payloads := string(r.topics), bytes.Clone(r.payloads)
	var from textEnds
	for i, to := range r.ends {
		batch.Jobs[i].Topic = topics[from.topic:to.topic]
		if batch.Jobs[i].Payload == nil {
			batch.Jobs[i].Payload = payloads[from.payload:to.payload:to.payload]
		}
		from = to
	}
	return rows.Err()
}

func binaryInt(v []byte) int64 { return int64(binary.BigEndian.Uint64(v)) }

// postgresEpoch is 2000-01-01, the zero of PostgreSQL's timestamps.
const postgresEpoch driver.DBTime = 946_684_800_000_000

// binaryTime saturates, as driver.DBTimeOf does. Infinity, the largest integer, stays the largest;
// -infinity, the smallest, becomes an instant before all others.
func binaryTime(v []byte) driver.DBTime {
	since2000 := binaryInt(v)
	return postgresEpoch + driver.DBTime(min(since2000, math.MaxInt64-int64(postgresEpoch)))
}
