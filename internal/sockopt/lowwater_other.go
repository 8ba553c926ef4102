//go:build !unix

package sockopt

import "net"

// LowWater is not to be had here: every answer wakes.
type LowWater struct{}

// NewLowWater yields one that cannot be set.
func NewLowWater(net.Conn) LowWater { return LowWater{} }

// Set reports whether the mark is at n bytes.
func (*LowWater) Set(n int) bool { return n == 1 }
