package bench

import (
	"context"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/procfs"

	"github.com/job-publisher/reactor/internal/stack"
)

// Usage is what a process, or a server with all its processes, has taken while it was
// measured. It is read from /proc; elsewhere than on Linux, and for servers on other
// machines, there is none.
type Usage struct {
	Name       string  `json:"name"`
	CPUSeconds float64 `json:"cpu_seconds"`
	// PeakRSSBytes is the largest resident set since the process began. Both are 0 for
	// PostgreSQL, whose processes count the memory that they share once each.
	PeakRSSBytes uint64 `json:"peak_rss_bytes,omitempty"`
	RSSBytes     uint64 `json:"rss_bytes,omitempty"` // at the end
}

// meter reads what processes take from its start on.
type meter struct {
	subjects []subject
	before   []Usage
}

// subject is a process, with its children if it is a server made of them.
type subject struct {
	name  string
	pid   int
	tree  bool
	child *stack.Process // nil: not ours, or never ends while it is measured
}

func startMeter(subjects ...subject) *meter {
	m := &meter{subjects: subjects}
	m.before = m.now()
	return m
}

// read returns what has been taken since the start.
func (m *meter) read() []Usage {
	list := m.now()
	for i := range list {
		list[i].CPUSeconds -= m.before[i].CPUSeconds
	}
	return list
}

func (m *meter) now() []Usage {
	list := make([]Usage, len(m.subjects))
	for i, s := range m.subjects {
		list[i] = s.usage()
	}
	return list
}

func (s subject) usage() Usage {
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

// childrenCPU is what the children of a process have taken, the ended ones included.
func childrenCPU(parent procfs.ProcStat) float64 {
	const ticks = 100 // a second: what every Linux tells its programs
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

// servers are the servers of the bench's own, and the bench itself, which is mostly its
// subscriber.
func (d *deployment) servers() []subject {
	list := []subject{{name: "subscriber", pid: os.Getpid()}}
	if d.ours.Postgres != nil {
		list = append(list, subject{name: "postgres", pid: d.ours.Postgres.Pid(), tree: true})
		list = append(list, subject{name: "mosquitto", pid: d.ours.Mosquitto.Pid()})
	}
	return list
}

// connections counts those of the instances.
func connections(ctx context.Context, conn *pgx.Conn) (n int, err error) {
	err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'reactor-%' AND datname = current_database()`).Scan(&n)
	return n, err
}

// statements counts what the database has been asked, by pg_stat_statements where it is
// there, and otherwise in transactions: ours are single statements, nearly all of them.
func statements(ctx context.Context, conn *pgx.Conn) (n int64, err error) {
	if err = conn.QueryRow(ctx, `SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements`).Scan(&n); err == nil {
		return n, nil
	}
	err = conn.QueryRow(ctx, `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()`).Scan(&n)
	return n, err
}
