package pgsource

import (
	"math/bits"

	"github.com/job-publisher/reactor/reactor/driver"
)

// shardOf computes the column shard of a row from its id. The WAL feed needs it, because PostgreSQL
// before version 18 does not publish generated columns. hashint8 is stable over versions and
// machines: it determines in which hash partition a row lies.
func shardOf(id int64) uint8 { return uint8(hashint8(id) % driver.Shards) }

// hashint8 is PostgreSQL's function of that name [access/hash/hashfunc.c].
func hashint8(value int64) uint32 {
	low, high := uint32(value), uint32(value>>32)
	if value < 0 {
		high = ^high // so that equal numbers of other integer types have equal hashes
	}
	return hashUint32(low ^ high)
}

// hashUint32 is hash_bytes_uint32, a round of Bob Jenkins' lookup3 [common/hashfn.c].
func hashUint32(k uint32) uint32 {
	const start = 0x9e3779b9 + 4 + 3923095
	a, b, c := start+k, uint32(start), uint32(start)
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	c = (c ^ b) - bits.RotateLeft32(b, 24)
	return c
}
