//go:build !unix

package sockopt

import "net"

// Immediate writes nothing on this system.
type Immediate struct{}

// NewImmediate returns an Immediate that writes nothing.
func NewImmediate(net.Conn) Immediate { return Immediate{} }

// Possible returns false.
func (Immediate) Possible() bool { return false }

// Write returns 0.
func (Immediate) Write([]byte) int { return 0 }
