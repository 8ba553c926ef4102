//go:build !unix

package sockopt

import "net"

// Immediate returns nil: it is not possible on this system.
func Immediate(net.Conn) func([]byte) int { return nil }
