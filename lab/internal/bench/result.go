package bench

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/job-publisher/reactor/internal/check"
)

// Result is the result of a run.
type Result struct {
	At         time.Time `json:"at"`
	CPUs       int       `json:"cpus"`
	Go         string    `json:"go"`
	PostgreSQL string    `json:"postgresql"`
	Fsync      string    `json:"fsync"` // the server's setting
	Delivery   string    `json:"delivery"`
	Instances  int       `json:"instances"`
	Lanes      int       `json:"lanes"`
	Load       Load      `json:"load"`

	InstanceFlags []string `json:"instance_flags,omitempty"`
	// RoundCount is how many rounds there were. Figures are medians of them.
	RoundCount int `json:"rounds"`

	// BareClaimsPerSecond is the rate of the database without a broker, Broker that of the
	// broker without a database, and Ceiling that of both together.
	BareClaimsPerSecond float64      `json:"bare_claims_per_second,omitempty"`
	Broker              *Measurement `json:"broker,omitempty"`
	Ceiling             *Measurement `json:"ceiling,omitempty"`

	// Floor is the least lateness at the delivery of the run, FloorQoS1 that at QoS 1, which is
	// measured for exactly-once.
	Floor     *Measurement `json:"floor,omitempty"`
	FloorQoS1 *Measurement `json:"floor_qos1,omitempty"`

	Baseline *Measurement `json:"baseline,omitempty"`
	Reactor  Measurement  `json:"reactor"`
	// Variants are further measurements of reactor: with other flags or numbers of instances,
	// under a snapshot, with stored rows.
	Variants []Measurement `json:"variants,omitempty"`
}

// Measurement is the result of one trial.
type Measurement struct {
	Name               string  `json:"name"`
	Jobs               int     `json:"jobs"`
	Lost               int     `json:"lost"`
	Duplicated         int     `json:"duplicated"` // extra messages
	Early              int     `json:"early"`
	Seconds            float64 `json:"seconds"` // duration, from the start of the processes
	InsertedPerSecond  float64 `json:"inserted_per_second"`
	PublishedPerSecond float64 `json:"published_per_second"` // from the first arrival to the last
	PublishedPerMinute float64 `json:"published_per_minute"`

	LatenessMillis Percentiles `json:"lateness_ms"`
	// ToFloor and ToFloorQoS1 are the lateness as a multiple of that of the floors, ToCeiling is
	// the throughput as a share of that of the ceiling, each in the same round.
	ToFloor     *Ratio `json:"to_floor,omitempty"`
	ToFloorQoS1 *Ratio `json:"to_floor_qos1,omitempty"`
	ToCeiling   *Range `json:"to_ceiling,omitempty"`
	// Rounds has an element per round if there were several.
	Rounds []Round `json:"rounds,omitempty"`

	// Beside is the measurement of the jobs beside the load, which the other figures leave out.
	Beside *Measurement `json:"beside,omitempty"`
	// Slices are parts of the time of the load, IdleAfter what followed it.
	Slices    []Slice    `json:"slices,omitempty"`
	IdleAfter *IdleUsage `json:"idle_after,omitempty"`

	// Arrivals counts the messages in each tenth of a second since the first message.
	Arrivals []int `json:"arrivals_per_100ms"`
	// Distribution is the lateness in ms at each of Percents.
	Distribution []float64 `json:"lateness_distribution_ms"`

	// StatementsPerSecond is how many statements all clients together sent to the database.
	StatementsPerSecond float64 `json:"database_statements_per_second"`
	StatementsPerJob    float64 `json:"database_statements_per_job"`
	// Connections is the most that all instances together held at once.
	Connections int `json:"database_connections"`
	// FirstSeconds is the time from the start of the processes to the first message of a backlog.
	FirstSeconds float64 `json:"first_seconds,omitempty"`

	Usage     []Usage    `json:"usage"`
	Internals *Internals `json:"internals,omitempty"`

	err error
}

// Percentiles of lateness.
type Percentiles struct {
	Min  float64 `json:"min"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

// Percents are the points of Measurement.Distribution.
var Percents = []float64{1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99}

func newMeasurement(name string, r check.Report, received []check.Received) Measurement {
	m := Measurement{
		Name: name, Jobs: r.Expected, Lost: r.Lost.Count, Duplicated: r.Duplicated.Count, Early: r.Early.Count,
		PublishedPerSecond: r.PerSecond, PublishedPerMinute: 60 * r.PerSecond, err: r.Err(),
		LatenessMillis: Percentiles{
			P50: millis(r.LatenessAt(50)), P95: millis(r.LatenessAt(95)), P99: millis(r.LatenessAt(99)),
			P999: millis(r.LatenessAt(99.9)), Max: millis(r.MaxLateness),
		},
	}
	if len(r.Lateness) > 0 {
		m.LatenessMillis.Min = millis(r.Lateness[0])
	}
	for _, p := range Percents {
		m.Distribution = append(m.Distribution, millis(r.LatenessAt(p)))
	}
	if len(received) > 0 {
		first := slices.MinFunc(received, func(a, b check.Received) int { return a.At.Compare(b.At) }).At
		for _, message := range received {
			tenth := int(message.At.Sub(first) / (100 * time.Millisecond))
			if tenth >= len(m.Arrivals) {
				m.Arrivals = append(m.Arrivals, make([]int, tenth+1-len(m.Arrivals))...)
			}
			m.Arrivals[tenth]++
		}
	}
	return m
}

// Err returns nil if every job arrived once and none arrived early.
func (r Result) Err() error {
	var errs []error
	for _, m := range r.all() {
		if m.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, m.err))
		}
		if m.Beside != nil && m.Beside.err != nil {
			errs = append(errs, fmt.Errorf("%s, beside it: %w", m.Name, m.Beside.err))
		}
	}
	return errors.Join(errs...)
}

// others are the measurements that reactor is compared with, nil for those that were not made.
func (r Result) others() []*Measurement {
	return []*Measurement{r.Broker, r.Ceiling, r.FloorQoS1, r.Floor, r.Baseline}
}

// all lists the measurements, reactor and its variants last.
func (r Result) all() []Measurement {
	var list []Measurement
	for _, m := range r.others() {
		if m != nil {
			list = append(list, *m)
		}
	}
	return append(append(list, r.Reactor), r.Variants...)
}
