//go:build !linux

package sockopt

import (
	"net"
	"time"
)

// limitUnacknowledged does nothing: only Linux has that option.
func limitUnacknowledged(*net.TCPConn, time.Duration) error { return nil }
