package bench

import (
	"context"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/procfs"

	"github.com/job-publisher/reactor/internal/stack"
)

// Usage is the CPU time and memory of a process, or of a server with all its processes, during
// a measurement. It is read from /proc: there is none on systems other than Linux, and none for
// servers on other machines.
type Usage struct {
	Name       string  `json:"name"`
	CPUSeconds float64 `json:"cpu_seconds"`
	// PeakRSSBytes is the largest resident set since the start of the process. Both sizes are 0
	// for PostgreSQL, because each of its processes counts the shared memory.
	PeakRSSBytes uint64 `json:"peak_rss_bytes,omitempty"`
	RSSBytes     uint64 `json:"rss_bytes,omitempty"` // at the end
}

// IdleUsage is what processes use while nothing is due.
type IdleUsage struct {
	Seconds float64 `json:"seconds"`
	Usage   []Usage `json:"usage"`
	Costs
}

// meter measures the usage of processes from its start on.
type meter struct {
	processes []measuredProcess
	before    []Usage
}

// measuredProcess is a process to measure.
type measuredProcess struct {
	name  string
	pid   int
	tree  bool           // add the CPU time of its children
	child *stack.Process // nil if it is not our child, or does not end during the measurement
}

func startMeter(processes ...measuredProcess) *meter {
	m := &meter{processes: processes}
	m.before = m.now()
	return m
}

// read returns the usage since the start.
func (m *meter) read() []Usage {
	list := m.now()
	for i := range list {
		list[i].CPUSeconds -= m.before[i].CPUSeconds
	}
	return list
}

func (m *meter) now() []Usage {
	list := make([]Usage, len(m.processes))
	for i, s := range m.processes {
		list[i] = s.usage()
	}
	return list
}

func (s measuredProcess) usage() Usage {
	u := Usage{Name: s.name}
	if s.child != nil {
		if ended := s.child.CPUTime(); ended > 0 {
			u.CPUSeconds = ended.Seconds()
			return u
		}
	}
	p, err := procfs.NewProc(s.pid)
	if err != nil {
		return u
	}
	if stat, err := p.Stat(); err == nil {
		u.CPUSeconds = stat.CPUTime()
		if s.tree {
			u.CPUSeconds += childrenCPU(stat)
		}
	}
	if status, err := p.NewStatus(); err == nil && !s.tree {
		u.PeakRSSBytes, u.RSSBytes = status.VmHWM, status.VmRSS
	}
	return u
}

// childrenCPU returns the CPU seconds of a process's children, those that have ended included.
func childrenCPU(parent procfs.ProcStat) float64 {
	const ticks = 100 // per second: USER_HZ, which is the same on every Linux
	seconds := float64(parent.CUTime+parent.CSTime) / ticks
	all, err := procfs.AllProcs()
	if err != nil {
		return seconds
	}
	for _, p := range all {
		if stat, err := p.Stat(); err == nil && stat.PPID == parent.PID {
			seconds += stat.CPUTime()
		}
	}
	return seconds
}

// servers returns the servers that the bench has started, and the bench itself, which mostly
// runs the subscriber.
func (d *deployment) servers() []measuredProcess {
	list := []measuredProcess{{name: "subscriber", pid: os.Getpid()}}
	if d.ours.Postgres != nil {
		list = append(list, measuredProcess{name: "postgres", pid: d.ours.Postgres.Pid(), tree: true})
		list = append(list, measuredProcess{name: "mosquitto", pid: d.ours.Mosquitto.Pid()})
	}
	return list
}

// connections counts the connections of the instances.
func connections(ctx context.Context, conn *pgx.Conn) (n int, err error) {
	err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'reactor-%' AND datname = current_database()`).Scan(&n)
	return n, err
}

// statements counts the statements that the database has executed, by pg_stat_statements.
// Without that extension it counts transactions: nearly all of reactor's have one statement.
func statements(ctx context.Context, conn *pgx.Conn) (n int64, err error) {
	if err = conn.QueryRow(ctx, `SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements`).Scan(&n); err == nil {
		return n, nil
	}
	err = conn.QueryRow(ctx, `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()`).Scan(&n)
	return n, err
}
