package ratelog

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		var l Limiter
		l.OK(log, "fine") // nothing has failed: nothing to say
		for range 100 {
			l.Fail(log, slog.LevelWarn, "broken")
			time.Sleep(Interval / 10)
		}
		l.OK(log, "mended")
		l.OK(log, "mended")
		if n := strings.Count(out.String(), "broken"); n != 10 {
			t.Errorf("100 failures over 10 intervals were logged %d times:\n%s", n, out.String())
		}
		if !strings.Contains(out.String(), "repeated=9") || strings.Count(out.String(), "mended") != 1 || strings.Contains(out.String(), "fine") {
			t.Errorf("logged:\n%s", out.String())
		}
	})
}
