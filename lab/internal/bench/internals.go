package bench

import "github.com/job-publisher/reactor/reactor"

// Internals are the counters of all instances together.
type Internals struct {
	Claim  Timing `json:"claim"`
	Ack    Timing `json:"ack"` // from PUBLISH to PUBACK or PUBREC
	Settle Timing `json:"settle"`
	// Launch is how late jobs were when they were handed to the connection: what is more at the
	// subscriber is the connection's, the broker's and the subscriber's.
	Launch Timing `json:"launch_lateness"`
	// Means.
	JobsPerClaim      float64 `json:"jobs_per_claim"`
	JobsPerSettlement float64 `json:"jobs_per_settlement"`
	// ClaimSizes are the ranges of how many jobs a claim got, of claims that got any.
	ClaimSizes []ClaimSize `json:"claim_sizes,omitempty"`
}

// Timing is in milliseconds. Mean is the mean over all instances. Each other value is that of
// the instance where it is largest.
type Timing struct {
	Mean float64 `json:"mean_ms"`
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	Max  float64 `json:"max_ms"`
}

func newInternals(all []reactor.Stats) *Internals {
	var (
		claim, ack, settle, launch []reactor.Timing
		claimed, published         int64
	)
	for _, s := range all {
		claim, ack, settle, launch = append(claim, s.Claim), append(ack, s.Ack), append(settle, s.Settle), append(launch, s.Lateness)
		claimed += s.Claimed
		published += s.Published
	}
	i := &Internals{Claim: combine(claim), Ack: combine(ack), Settle: combine(settle), Launch: combine(launch)}
	i.JobsPerClaim = float64(claimed) / float64(max(count(claim), 1))
	i.JobsPerSettlement = float64(published) / float64(max(count(settle), 1))
	return i
}

func combine(all []reactor.Timing) Timing {
	var (
		sum reactor.Timing
		t   Timing
	)
	for _, one := range all {
		sum.Count += one.Count
		sum.Sum += one.Sum
		t.P50, t.P99, t.Max = max(t.P50, millis(one.P50)), max(t.P99, millis(one.P99)), max(t.Max, millis(one.Max))
	}
	t.Mean = millis(sum.Mean())
	return t
}

func count(all []reactor.Timing) (n int64) {
	for _, one := range all {
		n += one.Count
	}
	return n
}
