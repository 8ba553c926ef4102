//go:build !linux

package sockopt

import (
	"net"
	"time"
)

// limitUnacknowledged does nothing: only Linux has this option.
func limitUnacknowledged(*net.TCPConn, time.Duration) error { return nil }
