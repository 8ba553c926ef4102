//go:build !linux

package sockopt

import (
	"net"
	"time"
)

// limitUnacknowledged is Linux' alone.
func limitUnacknowledged(*net.TCPConn, time.Duration) error { return nil }
