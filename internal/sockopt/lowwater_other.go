//go:build !unix

package sockopt

import "net"

// LowWater has no effect on this system: a read returns as soon as there is one byte.
type LowWater struct{}

// NewLowWater returns a mark that cannot be changed.
func NewLowWater(net.Conn) LowWater { return LowWater{} }

// Set reports whether the mark is n bytes, which is true for 1 only.
func (*LowWater) Set(n int) bool { return n == 1 }
