//go:build !linux

package sockopt

// AckNow does nothing: only Linux has that option.
func (*LowWater) AckNow() {}
