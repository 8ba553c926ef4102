package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// programFlag says which reactor is run.
type programFlag struct {
	Program string `type:"path" placeholder:"FILE" help:"The program reactor. If not given, the one beside this program, or else the first in PATH."`
}

// find returns its path.
func (f programFlag) find() (string, error) {
	if f.Program != "" {
		path, err := exec.LookPath(f.Program)
		if err != nil {
			return "", fmt.Errorf("the program to run: %w: give another --program", err)
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
		return "", fmt.Errorf("there is no reactor beside this program or in PATH: make build, or give --program")
	}
	return path, nil
}
