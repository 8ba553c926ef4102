//go:build !unix

package mqttsink

import "net"

// lowWater is not to be had here: every answer wakes.
type lowWater struct{}

func newLowWater(net.Conn) lowWater { return lowWater{} }

func (*lowWater) set(n int) bool { return n == 1 }
