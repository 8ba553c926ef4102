//go:build !unix

package cli

import "os"

// columns says only whether it is a character device.
func columns(f *os.File) (width int, ok bool) {
	info, err := f.Stat()
	return 0, err == nil && info.Mode()&os.ModeCharDevice != 0
}
