package ratelog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// line is what was logged.
type line struct {
	Level, Msg          string
	Err                 string
	Repeated, Recovered int
}

// record keeps what is logged.
func record(t *testing.T) (*slog.Logger, func() []line) {
	t.Helper()
	var out bytes.Buffer
	return slog.New(slog.NewJSONHandler(&out, nil)), func() (lines []line) {
		for d := json.NewDecoder(bytes.NewReader(out.Bytes())); d.More(); {
			var l line
			if err := d.Decode(&l); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, l)
		}
		return lines
	}
}

func TestRepeatedFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := record(t)
		var l Limiter
		l.OK(log, "fine") // nothing has failed: nothing to say
		for range 100 {
			l.Fail(log, slog.LevelWarn, "broken")
			time.Sleep(Interval / 10)
		}
		l.OK(log, "mended")
		l.OK(log, "mended")
		lines := logged()
		if len(lines) != 11 {
			t.Fatalf("100 failures over 10 intervals, and their end, in %d lines: %v", len(lines), lines)
		}
		for i, got := range lines {
			want := line{Level: "WARN", Msg: "broken", Repeated: 9}
			switch i {
			case 0:
				want.Repeated = 0
			case 10:
				want = line{Level: "INFO", Msg: "mended", Repeated: 9}
			}
			if got != want {
				t.Errorf("line %d is %+v, want %+v", i, got, want)
			}
		}
	})
}

// TestComesAndGoes: an operation fails and works again 20 times a second. A few log lines account
// for every failure.
func TestComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := record(t)
		var l Limiter
		const times = 600
		for range times {
			l.Fail(log, slog.LevelWarn, "lost", "err", errors.New("EOF"))
			time.Sleep(25 * time.Millisecond)
			l.OK(log, "connected again")
			time.Sleep(25 * time.Millisecond)
		}
		time.Sleep(Interval)
		l.OK(log, "connected again")
		l.OK(log, "connected again") // all is said
		lines := logged()
		if len(lines) > 9 { // two an interval, begun or not, and the sum
			t.Errorf("30 s of coming and going in %d lines: %v", len(lines), lines)
		}
		failures, recoveries := 0, 0
		for _, got := range lines {
			failures, recoveries = failures+got.Repeated, recoveries+got.Recovered
			if got.Msg == "lost" {
				failures++
			}
		}
		if failures != times {
			t.Errorf("%d failures, of which the log accounts for %d: %v", times, failures, lines)
		}
		if recoveries < times*9/10 {
			t.Errorf("%d times it was mended, of which the log counts %d: %v", times, recoveries, lines)
		}
		if last := lines[len(lines)-1]; last.Level != "INFO" {
			t.Errorf("it works, and the last line is %+v", last)
		}
	})
}

// TestSum: failures that never end are counted as well, once.
func TestSum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := record(t)
		var l Limiter
		l.Sum(log, slog.LevelWarn, "some were lost") // none was
		for range 50 {
			l.Fail(log, slog.LevelWarn, "one is lost")
		}
		time.Sleep(Interval)
		l.Sum(log, slog.LevelWarn, "some were lost")
		l.Sum(log, slog.LevelWarn, "some were lost")
		l.Fail(log, slog.LevelWarn, "one is lost")
		want := []line{
			{Level: "WARN", Msg: "one is lost"},
			{Level: "WARN", Msg: "some were lost", Repeated: 49},
			{Level: "WARN", Msg: "one is lost"},
		}
		if got := logged(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("logged\n%v\nwant\n%v", got, want)
		}
	})
}

// TestNewReasonIsNews: a new reason is logged at once, whatever else has failed just before.
func TestNewReasonIsNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := record(t)
		var l Limiter
		for _, err := range []string{"not authorized", "quota", "not authorized", "quota"} {
			l.Fail(log, slog.LevelWarn, "refused", "job", 1, "err", errors.New(err))
		}
		l.Fail(log, slog.LevelWarn, "lost")
		l.OK(log, "fine")
		want := []line{
			{Level: "WARN", Msg: "refused", Err: "not authorized"},
			{Level: "WARN", Msg: "refused", Err: "quota"},
			{Level: "WARN", Msg: "lost"},
			{Level: "INFO", Msg: "fine", Repeated: 2},
		}
		if got := logged(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("logged\n%v\nwant\n%v", got, want)
		}
	})
}

// TestReasonsAreBounded: texts that never repeat do not exceed the limit, and a different port is
// no new reason.
func TestReasonsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := record(t)
		var l Limiter
		for i := range 10_000 { // over 3 intervals
			l.Fail(log, slog.LevelWarn, "refused", "err", fmt.Errorf("job %d is bad", i))
			time.Sleep(3 * Interval / 10_000)
		}
		if lines := logged(); len(lines) > 4*(maxReasons+1) {
			t.Errorf("%d lines", len(lines))
		}
		l.OK(log, "fine")
		failures := 0
		for _, got := range logged() {
			failures += got.Repeated
			if got.Msg == "refused" {
				failures++
			}
		}
		if failures != 10_000 || len(l.reasons) > maxReasons {
			t.Errorf("10,000 failures, of which the log accounts for %d; %d reasons are kept", failures, len(l.reasons))
		}

		before := len(logged())
		time.Sleep(Interval)
		for i := range 100 {
			l.Fail(log, slog.LevelWarn, "lost", "err", fmt.Errorf("read tcp 127.0.0.1:%d->127.0.0.1:1883: connection reset", 40_000+i))
		}
		if n := len(logged()) - before; n != 1 {
			t.Errorf("100 connections that were lost alike make %d lines", n)
		}
	})
}

// TestFailsAfterHiddenRecovery: while the log says that there is no failure, a lasting failure is
// logged when its Interval is over.
func TestFailsAfterHiddenRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := record(t)
		var l Limiter
		l.Fail(log, slog.LevelWarn, "broken")
		l.OK(log, "fine")
		begun := time.Now()
		for len(logged()) < 3 {
			l.Fail(log, slog.LevelWarn, "broken")
			time.Sleep(time.Second)
		}
		if took := time.Since(begun); took > Interval+time.Second {
			t.Errorf("said after %v", took)
		}
		l.OK(log, "fine")
		want := []line{
			{Level: "WARN", Msg: "broken"},
			{Level: "INFO", Msg: "fine"},
			{Level: "WARN", Msg: "broken", Repeated: 10},
			{Level: "INFO", Msg: "fine"},
		}
		if got := logged(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("logged\n%v\nwant\n%v", got, want)
		}
	})
}
