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

// line is a logged line.
type line struct {
	Level, Msg          string
	Err                 string
	Repeated, Recovered int
}

// record returns a logger and a function that returns the lines it has logged.
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
		l.OK(log, "works") // nothing has failed, so this logs nothing
		for range 100 {
			l.Fail(log, slog.LevelWarn, "broken")
			time.Sleep(Interval / 10)
		}
		l.OK(log, "works again")
		l.OK(log, "works again")
		lines := logged()
		if len(lines) != 11 {
			t.Fatalf("100 failures over 10 intervals, and their end, were logged in %d lines, want 11: %v", len(lines), lines)
		}
		for i, got := range lines {
			want := line{Level: "WARN", Msg: "broken", Repeated: 9}
			switch i {
			case 0:
				want.Repeated = 0
			case 10:
				want = line{Level: "INFO", Msg: "works again", Repeated: 9}
			}
			if got != want {
				t.Errorf("line %d is %+v, want %+v", i, got, want)
			}
		}
	})
}

// TestIntermittentFailure: an operation fails and works again 20 times per second. A few log lines
// report the number of all failures.
func TestIntermittentFailure(t *testing.T) {
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
		l.OK(log, "connected again") // all failures are reported, so this logs nothing
		lines := logged()
		if len(lines) > 9 { // two for each of the four intervals, and one for the last count
			t.Errorf("30 s of intermittent failures were logged in %d lines, want at most 9: %v", len(lines), lines)
		}
		failures, recoveries := 0, 0
		for _, got := range lines {
			failures, recoveries = failures+got.Repeated, recoveries+got.Recovered
			if got.Msg == "lost" {
				failures++
			}
		}
		if failures != times {
			t.Errorf("the log reports %d failures, want %d: %v", failures, times, lines)
		}
		if recoveries < times*9/10 {
			t.Errorf("the log reports %d recoveries of %d, want at least 90 %%: %v", recoveries, times, lines)
		}
		if last := lines[len(lines)-1]; last.Level != "INFO" {
			t.Errorf("the operation works, but the last line is %+v", last)
		}
	})
}

// TestSum: Sum reports the failures that were not logged, and each of them once.
func TestSum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := record(t)
		var l Limiter
		l.Sum(log, slog.LevelWarn, "some were lost") // none was lost, so this logs nothing
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

// TestNewReasonIsLoggedAtOnce: a new reason is logged at once, also just after another one.
func TestNewReasonIsLoggedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := record(t)
		var l Limiter
		for _, err := range []string{"not authorized", "quota", "not authorized", "quota"} {
			l.Fail(log, slog.LevelWarn, "refused", "job", 1, "err", errors.New(err))
		}
		l.Fail(log, slog.LevelWarn, "lost")
		l.OK(log, "works")
		want := []line{
			{Level: "WARN", Msg: "refused", Err: "not authorized"},
			{Level: "WARN", Msg: "refused", Err: "quota"},
			{Level: "WARN", Msg: "lost"},
			{Level: "INFO", Msg: "works", Repeated: 2},
		}
		if got := logged(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("logged\n%v\nwant\n%v", got, want)
		}
	})
}

// TestReasonsAreBounded: the number of lines is limited even if no text occurs twice, and a
// different port is not a new reason.
func TestReasonsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := record(t)
		var l Limiter
		for i := range 10_000 { // over 3 intervals
			l.Fail(log, slog.LevelWarn, "refused", "err", fmt.Errorf("job %d is bad", i))
			time.Sleep(3 * Interval / 10_000)
		}
		if lines := logged(); len(lines) > 4*(maxReasons+1) {
			t.Errorf("%d lines, want at most %d", len(lines), 4*(maxReasons+1))
		}
		l.OK(log, "works")
		failures := 0
		for _, got := range logged() {
			failures += got.Repeated
			if got.Msg == "refused" {
				failures++
			}
		}
		if failures != 10_000 || len(l.reasons) > maxReasons {
			t.Errorf("the log reports %d failures, want 10,000; %d reasons are stored, want at most %d", failures, len(l.reasons), maxReasons)
		}

		before := len(logged())
		time.Sleep(Interval)
		for i := range 100 {
			l.Fail(log, slog.LevelWarn, "lost", "err", fmt.Errorf("read tcp 127.0.0.1:%d->127.0.0.1:1883: connection reset", 40_000+i))
		}
		if n := len(logged()) - before; n != 1 {
			t.Errorf("100 connections were lost for the same reason: %d lines, want 1", n)
		}
	})
}

// TestFailsAfterHiddenRecovery: the latest line says that the operation works, and the reason was
// logged less than Interval ago. If the operation fails now and does not recover, the failure is
// logged when the Interval is over.
func TestFailsAfterHiddenRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logged := record(t)
		var l Limiter
		l.Fail(log, slog.LevelWarn, "broken")
		l.OK(log, "works")
		begun := time.Now()
		for len(logged()) < 3 {
			l.Fail(log, slog.LevelWarn, "broken")
			time.Sleep(time.Second)
		}
		if took := time.Since(begun); took > Interval+time.Second {
			t.Errorf("the failure was logged after %v, want at most %v", took, Interval+time.Second)
		}
		l.OK(log, "works")
		want := []line{
			{Level: "WARN", Msg: "broken"},
			{Level: "INFO", Msg: "works"},
			{Level: "WARN", Msg: "broken", Repeated: 10},
			{Level: "INFO", Msg: "works"},
		}
		if got := logged(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("logged\n%v\nwant\n%v", got, want)
		}
	})
}
