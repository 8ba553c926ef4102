package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// programFlag is the flag for the path of reactor.
type programFlag struct {
	Program string `type:"path" placeholder:"FILE" help:"The program reactor. Defaults to the one in the folder of this program, or else the first one in PATH."`
}

// find returns the path of reactor.
func (f programFlag) find() (string, error) {
	if f.Program != "" {
		path, err := exec.LookPath(f.Program)
		if err != nil {
			return "", fmt.Errorf("program reactor: %w: give another --program", err)
		}
		return path, nil
	}
	if own, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(own), "reactor")); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("reactor")
	if err != nil {
		return "", fmt.Errorf("there is no reactor in the folder of this program or in PATH: run make build, or give --program")
	}
	return path, nil
}
