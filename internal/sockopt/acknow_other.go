//go:build !linux

package sockopt

// AckNow is Linux' alone.
func (*LowWater) AckNow() {}
