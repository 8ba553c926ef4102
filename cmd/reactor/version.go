package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/job-publisher/reactor/internal/cli"
)

// version is set by the linker for releases.
var version = ""

// versionCommand is `reactor version`.
type versionCommand struct{}

func (*versionCommand) Run(out cli.Output) error {
	v, commit := version, ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = ", commit " + s.Value
			}
		}
	}
	_, err := fmt.Fprintf(out.Stdout, "reactor %s (%s, %s/%s%s)\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH, commit)
	return err
}
