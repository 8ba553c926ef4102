package pgsource_test

import (
	"fmt"
	"testing"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestWaitsFor: a job with an ordering_key tells for which one it waits, in the list and alone, whatever has become of
// that one, and also where the table has partitions.
func TestWaitsFor(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(*testing.T) *bench{
		"plain": func(t *testing.T) *bench { return newBench(t) },
		"partitions": func(t *testing.T) *bench {
			b := converted(t, "")
			b.start(b.url)
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := make(t)
			ids := b.insert(6, "-1 minute")
			b.exec("UPDATE jobs SET ordering_key = 'k'")
			other := b.insert(1, "-30 seconds")[0] // has no order
			later := b.insert(1, "1 hour")[0]
			b.exec("UPDATE jobs SET ordering_key = 'k' WHERE id = $1", later)
			// said is for which job each waits, and in which state that is.
			said := func() (text string) {
				t.Helper()
				list, _ := b.list(pgsource.JobFilter{States: []pgsource.JobState{pgsource.JobWaiting, pgsource.JobRetrying, pgsource.JobBlocked}}, pgsource.JobPage{})
				for _, j := range list {
					if d := b.detail(j.ID); fmt.Sprint(d.WaitsFor == nil) != fmt.Sprint(j.WaitsFor == nil) || d.WaitsFor != nil && (d.WaitsFor.ID != j.WaitsFor.ID || d.WaitsFor.State != j.WaitsFor.State) {
						t.Errorf("job %d waits for %+v in the list, and for %+v alone", j.ID, j.WaitsFor, d.WaitsFor)
					}
					if j.ID == other && (j.WaitsFor != nil || j.OrderingKey != "") {
						t.Errorf("a job without an order waits for %+v", j.WaitsFor)
					}
					if j.WaitsFor != nil {
						text += fmt.Sprintf("%d<%d %s;", j.ID-ids[0], j.WaitsFor.ID-ids[0], j.WaitsFor.State)
						if j.WaitsFor.RetryAt == nil && j.WaitsFor.State == pgsource.JobRetrying {
							t.Errorf("it does not say when job %d is tried again", j.WaitsFor.ID)
						}
					}
				}
				return text
			}
			check := func(what, want string) {
				t.Helper()
				if got := said(); got != want {
					t.Errorf("%s: %q, want %q", what, got, want)
				}
			}
			check("all wait", "1<0 waiting;2<0 waiting;3<0 waiting;4<0 waiting;5<0 waiting;")
			batch := b.claim(ids[:1])
			check("the first is being published", "1<0 firing;2<0 firing;3<0 firing;4<0 firing;5<0 firing;")
			b.refuse(batch)
			check("the first is to be tried again", "1<0 retrying;2<0 retrying;3<0 retrying;4<0 retrying;5<0 retrying;")
			b.refuse(b.claim(ids[:1])) // for good: two attempts are allowed
			check("the first has failed, skip", "2<1 waiting;3<1 waiting;4<1 waiting;5<1 waiting;")
			b.exec("UPDATE reactor.deployment SET ordered_failure = 'block'")
			const blocked = "1<0 failed;2<0 failed;3<0 failed;4<0 failed;5<0 failed;"
			check("the first has failed, block", blocked+fmt.Sprintf("%d<0 failed;", later-ids[0]))
			b.exec("DELETE FROM jobs WHERE id = $1", ids[0])
			check("the first was deleted", "2<1 waiting;3<1 waiting;4<1 waiting;5<1 waiting;")
			b.published(b.claim(ids[1:2]))
			check("the second was published", "3<2 waiting;4<2 waiting;5<2 waiting;")
			if err := b.Quarantine(b.ctx, []driver.BadJob{{ID: ids[2], Why: &driver.JobError{Reason: "a trigger says no"}}}); err != nil {
				t.Fatal(err)
			}
			check("the third cannot be claimed, block", "3<2 blocked;4<2 blocked;5<2 blocked;"+fmt.Sprintf("%d<2 blocked;", later-ids[0]))
			b.exec("UPDATE reactor.deployment SET ordered_failure = 'skip'")
			check("the third cannot be claimed, skip", "4<3 waiting;5<3 waiting;")
			b.exec("UPDATE jobs SET processed = true, processed_at = now(), claim = NULL WHERE id = $1", ids[3]) // cancelled by hand
			check("the fourth was cancelled by hand", "5<4 waiting;")
		})
	}
}
