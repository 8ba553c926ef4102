package page

import (
	"crypto/rand"
	"sync"
	"time"

	"github.com/job-publisher/reactor/pgsource"
)

// questions keep which jobs a question was about until it is answered, so that a change is one of exactly these jobs. A search that
// is repeated for the answer would find others by then: the newest come first, and "until +1h" has moved on.
type questions struct {
	mu  sync.Mutex
	all []question // guarded by mu: the oldest first
}

// question is a change that somebody was asked to confirm.
type question struct {
	name   string // random
	who    string
	action pgsource.JobAction
	ids    []int64
	filter pgsource.JobFilter // what does not match any more when it is changed stays as it is
	what   string             // the filter, for the log
	back   string             // the address of the list
	asked  time.Time
}

const (
	// mostQuestions bounds the memory; each may have actedOn ids. Beyond it the oldest is forgotten.
	mostQuestions = 20
	// questionLife is how long one can be answered.
	questionLife = 15 * time.Minute
)

// ask keeps a question, and returns its name.
func (q *questions) ask(one question) (name string) {
	one.name, one.asked = rand.Text(), time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all = append(q.all[max(0, len(q.all)-mostQuestions+1):], one)
	return one.name
}

// answer returns a question of somebody, once; false: there is none with this name.
func (q *questions) answer(name, who string) (question, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, one := range q.all {
		if one.name == name && one.who == who {
			q.all = append(q.all[:i], q.all[i+1:]...)
			return one, time.Since(one.asked) < questionLife
		}
	}
	return question{}, false
}
