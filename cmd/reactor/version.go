package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/job-publisher/reactor/internal/cli"
)

// version is set by the linker for releases.
var version = ""

// versionName is the version, or "" if nothing says it.
func versionName() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return ""
}

// revision is the commit that the program was built from, or "" if nothing says it.
func revision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return ""
}

// versionCommand is `reactor version`.
type versionCommand struct{}

func (*versionCommand) Run(out cli.Output) error {
	v, commit := versionName(), revision()
	if commit != "" {
		commit = ", commit " + commit
	}
	_, err := fmt.Fprintf(out.Stdout, "reactor %s (%s, %s/%s%s)\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH, commit)
	return err
}
