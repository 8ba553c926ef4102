package stack

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestChildDiesWithParent runs this test binary again as a parent and kills it. Its child
// must end too. The test sees that by the pipe of the child's output, which is closed when
// the last process that has it open ends.
func TestChildDiesWithParent(t *testing.T) {
	t.Parallel()
	const role = "REACTOR_TEST_PARENT"
	if os.Getenv(role) != "" {
		child, err := StartProcess(ProcessSpec{Path: "/bin/sleep", Args: []string{"600"}, Stdout: os.Stdout})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("child " + strconv.Itoa(child.Pid()) + " \n")
		<-child.Done()
		return
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	parent := exec.Command(os.Args[0], "-test.run=^TestChildDiesWithParent$")
	parent.Env = append(os.Environ(), role+"=1")
	parent.Stdout = write
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	_ = read.SetReadDeadline(time.Now().Add(30 * time.Second))
	var out bytes.Buffer
	for !strings.Contains(out.String(), "\n") {
		buf := make([]byte, 256)
		n, err := read.Read(buf)
		if err != nil {
			t.Fatalf("the parent printed %q: %v", out.String(), err)
		}
		out.Write(buf[:n])
	}
	_ = parent.Process.Signal(syscall.SIGKILL)
	_ = parent.Wait()
	if _, err := out.ReadFrom(read); err != nil { // until end of file
		t.Fatalf("the child survived its parent: %v\n%s", err, out.String())
	}
}

func TestProcessOutcome(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p, err := StartProcess(ProcessSpec{Path: "/bin/sh", Args: []string{"-c", "echo hello; exit 3"}, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if p.ExitCode() != 3 || out.String() != "hello\n" || p.Outcome() != "exit status 3" {
		t.Errorf("code %d, output %q, outcome %q", p.ExitCode(), out.String(), p.Outcome())
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("a signal to a process that has ended: %v", err)
	}
	if _, err := StartProcess(ProcessSpec{Path: "/nonexistent"}); err == nil {
		t.Error("a program that does not exist started")
	}
}
