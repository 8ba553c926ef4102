package check

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	pahologger "github.com/eclipse/paho.golang/paho/log"
)

// pahoLogger passes paho's log lines to slog. paho's default logger discards them.
type pahoLogger struct {
	log   *slog.Logger
	level slog.Level
}

var _ pahologger.Logger = pahoLogger{}

func (l pahoLogger) Println(v ...any) { l.write(fmt.Sprintln(v...)) }

func (l pahoLogger) Printf(format string, v ...any) { l.write(fmt.Sprintf(format, v...)) }

func (l pahoLogger) write(line string) {
	l.log.Log(context.Background(), l.level, "mqtt client", "line", strings.TrimSpace(line))
}
