package pgsource_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestClaimReadsWhatWasInserted: the claim returns what was inserted, byte for byte, in every mode
// in which pgx sends a statement, and New refuses the other modes.
func TestClaimReadsWhatWasInserted(t *testing.T) {
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec"} {
		t.Run(mode, func(t *testing.T) {
			b := newBench(t)
			s := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url + "&default_query_exec_mode=" + mode})
			b.member.Leave(b.ctx)
			b.Source = s
			_, b.lease = b.join(s)
			payloads := []string{"", "x", "", "für 5 €", strings.Repeat("long ", 5000), "after", strings.Repeat("long ", 1000)}
			var ids []int64
			for i, p := range payloads {
				var id int64
				if err := b.conn.QueryRow(b.ctx, `
					INSERT INTO jobs (topic, payload, fire_at, expires_at)
					VALUES ('t/ü/' || $1::int, $2, now() + $1::int * interval '1 microsecond', CASE WHEN $1::int % 2 = 1 THEN now() + interval '1 hour' END) RETURNING id`,
					i, p).Scan(&id); err != nil {
					t.Fatal(err)
				}
				ids = append(ids, id)
			}
			before := b.now()
			batch := b.claim(ids)
			if len(batch.Jobs) != len(payloads) {
				t.Fatalf("%d jobs of %d", len(batch.Jobs), len(payloads))
			}
			if batch.At < before || batch.At > b.now() {
				t.Errorf("it was claimed at %v, says the claim, not between %v and now", batch.At.Time(), before.Time())
			}
			for i, job := range batch.Jobs {
				topic := "t/ü/" + string(rune('0'+i))
				if job.ID != ids[i] || job.Topic != topic || string(job.Payload) != payloads[i] {
					t.Errorf("job %d is %d %q %.20q, want %d %q %.20q", i, job.ID, job.Topic, job.Payload, ids[i], topic, payloads[i])
				}
				if job.Expires != (i%2 == 1) || job.Expires && job.ExpiresAt < job.FireAt.Add(3599*time.Second) {
					t.Errorf("job %d fires at %v and expires at %v", i, job.FireAt.Time(), job.ExpiresAt.Time())
				}
				if i > 0 && job.FireAt <= batch.Jobs[i-1].FireAt {
					t.Errorf("job %d fires at %v, after the one before at %v", i, job.FireAt, batch.Jobs[i-1].FireAt)
				}
			}
			if at := batch.Jobs[0].FireAt; at > before || at < before-driver.DBTime(10_000_000) {
				t.Errorf("fire_at is %v, it was inserted before %v", at.Time(), before.Time())
			}
		})
	}
}

func TestModesThatCannotCarryOurStatements(t *testing.T) {
	for _, mode := range []string{"exec", "simple_protocol"} {
		_, err := pgsource.New(pgsource.Config{DatabaseURL: "postgres://localhost/app?default_query_exec_mode=" + mode})
		if err == nil || !strings.Contains(err.Error(), "cache_describe") {
			t.Errorf("%s: the error is %v, want one that names a mode that works", mode, err)
		}
	}
}

// TestNotSent: a claim that got no connection was not sent. Its outcome is known, whatever the reason was.
func TestNotSent(t *testing.T) {
	b := newBench(t)
	ids := b.insert(3, "-1 second")
	ended, end := context.WithCancel(b.ctx)
	end()
	_, err := b.Claim(ended, b.request(ids))
	if unknown := (*driver.UnknownError)(nil); !errors.Is(err, context.Canceled) || errors.As(err, &unknown) {
		t.Errorf("it says %v", err)
	}
	if batch := b.claim(ids); len(batch.Jobs) != 3 {
		t.Errorf("claimed %+v", batch)
	}
}
