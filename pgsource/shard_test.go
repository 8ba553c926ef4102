package pgsource_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/pgsource"
)

// TestShardOf compares our hash with the server's, as the column shard has it.
func TestShardOf(t *testing.T) {
	b := newBench(t)
	const each = 2000
	ids := map[int64]bool{}
	for _, edge := range []int64{math.MinInt64, math.MinInt32, 0, math.MaxInt32, math.MaxUint32, math.MaxInt64} {
		for off := int64(-3); off <= 3; off++ {
			ids[edge+off] = true // beyond either end it is the other
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range int64(each) {
		ids[n], ids[-n], ids[int64(rng.Uint64())], ids[-rng.Int64N(1<<40)] = true, true, true, true
	}
	list := make([]int64, 0, len(ids))
	for id := range ids {
		list = append(list, id)
	}
	rows, err := b.conn.Query(b.ctx, "INSERT INTO jobs (id, topic, fire_at) SELECT id, 't', now() + interval '1 hour' FROM unnest($1::bigint[]) id RETURNING id, shard", list)
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	var id int64
	var shard uint8
	if _, err := pgx.ForEachRow(rows, []any{&id, &shard}, func() error {
		compared++
		if got := pgsource.ShardOf(id); got != shard {
			t.Errorf("id %d: shard %d, the server's is %d", id, got, shard)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if compared != len(ids) {
		t.Errorf("%d ids were compared, of %d", compared, len(ids))
	}
}
