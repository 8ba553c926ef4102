package reactor

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestCatchUpPaces: whatever is asked for, and however often, no more than the rate is taken, and
// nearly as much.
func TestCatchUpPaces(t *testing.T) {
	for _, rate := range []int{1, 7, 1000, 50_000} {
		c := catchUp{rate: rate}
		const length = 20 * time.Second
		taken, asked := 0, 0
		for now := time.Duration(0); now < length; asked++ {
			n, again := c.allow(now, 512)
			if n == 0 {
				if again <= 0 {
					t.Fatalf("rate %d: nothing is allowed, and nothing to wait for", rate)
				}
				now += again
				continue
			}
			c.took(n)
			taken += n
		}
		most := int(length.Seconds())*rate + max(1, rate/10)
		if taken > most || taken < most*9/10-1 {
			t.Errorf("rate %d: %d jobs in %v, want up to %d", rate, taken, length, most)
		}
		if asked > 2*taken+10 {
			t.Errorf("rate %d: asked %d times for %d jobs", rate, asked, taken)
		}
	}
	var free catchUp
	if n, _ := free.allow(0, 512); n != 512 {
		t.Errorf("without a rate %d of 512", n)
	}
}

// TestCatchUpCountsWhatIsClaimed: jobs that were cancelled, or wait for others, do not use up the rate.
func TestCatchUpCountsWhatIsClaimed(t *testing.T) {
	dispatched(t, func(d *dispatch) {
		synctest.Wait()
		d.catchUp = catchUp{rate: 10} // one at a time, a tenth of a second apart
		begun := d.clock.Now()
		d.load(-time.Minute, count(1, 6)...)
		for i := range 5 {
			batch := <-d.bulk
			if i < 4 {
				d.ended <- finished{ids: batch.ids, unpaid: len(batch.ids)}
			} else {
				d.ended <- finished{ids: batch.ids}
			}
		}
		if took := d.clock.Now().Sub(begun); took > 10*time.Millisecond {
			d.Errorf("four jobs that were not claimed, and one that was, took %v", took)
		}
		<-d.bulk
		if took := d.clock.Now().Sub(begun); took < 90*time.Millisecond {
			d.Errorf("the next came after %v", took)
		}
	})
}
