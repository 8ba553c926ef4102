package pgsource

import (
	"encoding/binary"

	"github.com/jackc/pgx/v5/pgtype"
)

// idsCodec encodes []int64 as bigint[]. pgx's own codec allocates memory for each element, which is
// one allocation for each job of a claim.
type idsCodec struct{ *pgtype.ArrayCodec }

func registerIDs(types *pgtype.Map) {
	element, ok := types.TypeForOID(pgtype.Int8OID)
	if !ok {
		return // pgx uses its own codec
	}
	types.RegisterType(&pgtype.Type{
		Name: "_int8", OID: pgtype.Int8ArrayOID, Codec: idsCodec{&pgtype.ArrayCodec{ElementType: element}},
	})
}

// PlanEncode implements pgtype.Codec.
func (c idsCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.([]int64); ok && format == pgtype.BinaryFormatCode {
		return encodeIDs{}
	}
	return c.ArrayCodec.PlanEncode(m, oid, format, value)
}

type encodeIDs struct{}

// Encode appends PostgreSQL's binary form of a one-dimensional array: the number of dimensions,
// whether it contains NULLs, the element type, the length and the lower bound of the one dimension,
// and then the elements, each with its length (array_recv in PostgreSQL's arrayfuncs.c).
func (encodeIDs) Encode(value any, buf []byte) ([]byte, error) {
	ids := value.([]int64)
	if ids == nil {
		return nil, nil
	}
	dimensions := uint32(1)
	if len(ids) == 0 {
		dimensions = 0
	}
	buf = binary.BigEndian.AppendUint32(buf, dimensions)
	buf = binary.BigEndian.AppendUint32(buf, 0)
	buf = binary.BigEndian.AppendUint32(buf, pgtype.Int8OID)
	if dimensions == 0 {
		return buf, nil
	}
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(ids)))
	buf = binary.BigEndian.AppendUint32(buf, 1)
	for _, id := range ids {
		buf = binary.BigEndian.AppendUint32(buf, 8)
		buf = binary.BigEndian.AppendUint64(buf, uint64(id))
	}
	return buf, nil
}
