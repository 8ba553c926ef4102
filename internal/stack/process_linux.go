package stack

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

func childAttributes(death syscall.Signal, runAs account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: death, Credential: runAs.cred}
}

// childrenOf lists the direct children of a process.
func childrenOf(pid int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var children []int
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if _, parent, ok := processState(child); ok && parent == pid {
			children = append(children, child)
		}
	}
	return children
}

// alive reports whether the process exists and is not a zombie.
func alive(pid int) bool {
	state, _, ok := processState(pid)
	return ok && state != 'Z' && state != 'X'
}

// processState reads state and parent from /proc/pid/stat: "pid (name) S ppid …",
// where the name may hold spaces and parentheses.
func processState(pid int) (state byte, parent int, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	_, err = fmt.Sscanf(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " %c %d", &state, &parent)
	return state, parent, err == nil
}
