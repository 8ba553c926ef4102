package check

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

const (
	// jobIDProperty is the MQTT 5 user property that names the job, in decimal.
	jobIDProperty = "job-id"

	// NoID stands for a message without a job id.
	NoID int64 = math.MinInt64

	payloadBlockBytes = 1 << 20
)

// recorder stores messages at low cost: one lock, one append and one map lookup each.
type recorder struct {
	mu       sync.Mutex
	messages []Received
	distinct map[int64]struct{}
	topics   map[string]string // one copy of each topic, up to a limit
	block    []byte            // memory for payloads
	waiters  []waiter
}

type waiter struct {
	ready func() bool // called with the lock held
	done  chan struct{}
}

func (r *recorder) init(expect int) {
	r.messages = make([]Received, 0, expect)
	r.distinct = make(map[int64]struct{}, expect)
	r.topics = make(map[string]string)
}

func (r *recorder) add(p *paho.Publish) {
	now := time.Now()
	m := Received{ID: NoID, Topic: p.Topic, QoS: p.QoS, Dup: p.Duplicate(), Retain: p.Retain, At: now}
	if p.Properties != nil {
		if at := p.Properties.SubscriptionIdentifier; at != nil {
			m.At = time.Unix(0, int64(*at))
		}
		for _, user := range p.Properties.User {
			if user.Key != jobIDProperty {
				continue
			}
			if id, err := strconv.ParseInt(user.Value, 10, 64); err == nil {
				m.ID = id
			}
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m.Topic = r.intern(p.Topic)
	m.Payload = r.keep(p.Payload)
	r.messages = append(r.messages, m)
	if m.ID != NoID {
		r.distinct[m.ID] = struct{}{}
	}
	r.wakeWaiters()
}

// intern returns one shared copy of a topic, so that equal topics share memory.
func (r *recorder) intern(topic string) string {
	const maxTopics = 10_000
	if known, ok := r.topics[topic]; ok {
		return known
	}
	if len(r.topics) < maxTopics {
		r.topics[topic] = topic
	}
	return topic
}

// keep copies a payload into a block. paho's own slice has a capacity of at least 512
// bytes, and a million recorded messages would keep all of that memory in use.
func (r *recorder) keep(payload []byte) []byte {
	if len(payload) > payloadBlockBytes/4 {
		return slices.Clone(payload)
	}
	if len(r.block)+len(payload) > cap(r.block) {
		r.block = make([]byte, 0, payloadBlockBytes)
	}
	start := len(r.block)
	r.block = append(r.block, payload...)
	return r.block[start:len(r.block):len(r.block)]
}

func (r *recorder) all() []Received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

func (r *recorder) progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts()
}

// counts returns the counters. The caller holds the lock.
func (r *recorder) counts() Progress {
	return Progress{Messages: len(r.messages), Distinct: len(r.distinct)}
}

// wakeWaiters wakes those whose condition is true. The caller holds the lock.
func (r *recorder) wakeWaiters() {
	if len(r.waiters) == 0 {
		return
	}
	r.waiters = slices.DeleteFunc(r.waiters, func(w waiter) bool {
		if !w.ready() {
			return false
		}
		close(w.done)
		return true
	})
}

// wait blocks until ready, which is called with the lock held, or ctx ends.
func (r *recorder) wait(ctx context.Context, ready func() bool) error {
	r.mu.Lock()
	if ready() {
		r.mu.Unlock()
		return nil
	}
	w := waiter{ready: ready, done: make(chan struct{})}
	r.waiters = append(r.waiters, w)
	r.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiters = slices.DeleteFunc(r.waiters, func(other waiter) bool { return other.done == w.done })
	if ready() {
		return nil
	}
	return ctx.Err()
}

// waitCount waits for a number of messages or jobs.
func (r *recorder) waitCount(ctx context.Context, n int, count func(Progress) int) error {
	err := r.wait(ctx, func() bool { return count(r.counts()) >= n })
	if err != nil {
		return fmt.Errorf("wait for %d, have %d: %w", n, count(r.progress()), err)
	}
	return nil
}

// waitFor waits for one job.
func (r *recorder) waitFor(ctx context.Context, id int64) error {
	err := r.wait(ctx, func() bool { _, ok := r.distinct[id]; return ok })
	if err != nil {
		return fmt.Errorf("wait for job %d: %w", id, err)
	}
	return nil
}
