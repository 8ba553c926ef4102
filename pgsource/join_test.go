package pgsource_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestJoinChecksTheProtocol: an instance joins beside those that it understands, and that understand it, and otherwise says in
// one line what to do and leaves nothing behind.
func TestJoinChecksTheProtocol(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	for _, test := range []struct {
		name  string
		lives string // the protocols of the one that is running: oldest, newest
		ours  driver.Protocols
		want  string // in the error; "": it joins
	}{
		{"the same", "1, 1", driver.Protocols{Oldest: 1, Newest: 1}, ""},
		{"before protocols", "NULL, NULL", driver.Protocols{Oldest: 1, Newest: 1}, ""},
		{"a later one that knows ours", "1, 2", driver.Protocols{Oldest: 1, Newest: 1}, ""},
		{"an earlier one that we know", "1, 1", driver.Protocols{Oldest: 1, Newest: 3}, ""},
		{"a later one", "2, 3", driver.Protocols{Oldest: 1, Newest: 1}, "instance other (reactor v9) is running and speaks protocol 2 to 3, and this reactor understands 1: upgrade this one, or stop that one first"},
		{"an earlier one", "1, 1", driver.Protocols{Oldest: 2, Newest: 3}, "speaks protocol 1, and this reactor understands 2 to 3: upgrade that one first"},
		{"one before protocols", "NULL, NULL", driver.Protocols{Oldest: 2, Newest: 2}, "speaks protocol 1, and this reactor understands 2: upgrade that one first"},
	} {
		b.exec("DELETE FROM reactor.instances; INSERT INTO reactor.instances (id, name, backends, dynamic, version, protocol_oldest, protocol) VALUES (7, 'other', 'other', true, 'v9', " + test.lives + ")")
		s := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url})
		s.Speak(test.ours)
		_, err := s.Join(b.ctx, driver.JoinOptions{})
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v", test.name, err)
		}
		var foreign *driver.ProtocolError
		if errors.As(err, &foreign) != (test.want != "") {
			t.Errorf("%s: %#v", test.name, err)
		}
		if n := b.count("SELECT count(*) FROM reactor.instances"); (n == 1) != (test.want != "") {
			t.Errorf("%s: there are %d instances", test.name, n)
		}
	}
	// One that is gone is no reason.
	b.exec("DELETE FROM reactor.instances; INSERT INTO reactor.instances (id, name, backends, dynamic, protocol_oldest, protocol, heartbeat_at) VALUES (7, 'gone', 'gone', true, 9, 9, now() - interval '4 seconds')")
	b.start(b.url)
}

// TestStrangersAtTheSameMoment: of instances that do not understand each other, and enter at once, those that stay
// understand each other.
func TestStrangersAtTheSameMoment(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	var sources []*pgsource.Source
	for i := range 6 {
		s := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url})
		s.Speak(driver.Protocols{Oldest: 1 + i%2, Newest: 1 + i%2})
		sources = append(sources, s)
	}
	for range 10 {
		var enter sync.WaitGroup
		for _, s := range sources {
			enter.Go(func() {
				_, err := s.Join(b.ctx, driver.JoinOptions{})
				if foreign := (*driver.ProtocolError)(nil); err != nil && !errors.As(err, &foreign) {
					t.Error(err)
				}
			})
		}
		enter.Wait()
		if n := b.count("SELECT count(DISTINCT protocol) FROM reactor.instances"); n > 1 {
			t.Error("instances of two protocols run beside each other")
		}
		b.exec("DELETE FROM reactor.instances")
	}
}
