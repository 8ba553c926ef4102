package cli

import (
	"io"
	"os"
	"strconv"
)

// IsTerminal reports whether w is a terminal. A file, a pipe and /dev/null are not.
func IsTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, ok = columns(f)
	return ok
}

// Columns returns the width of the terminal that w is; 0: it is none. COLUMNS stands for a width that the
// terminal does not tell.
func Columns(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, ok := columns(f)
	if !ok || width > 0 {
		return width
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	return 80
}
