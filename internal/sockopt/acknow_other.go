//go:build !linux

package sockopt

// AckNow does nothing: only Linux has this option.
func (*LowWater) AckNow() {}
