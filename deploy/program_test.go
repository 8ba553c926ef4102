package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// version is what the program that the tests build says.
const version = "v9.8.7-test"

// folder is where the tests build.
var folder string

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "reactor-deploy-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(folder); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// program builds the program of the image, and returns its path.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "reactor")
	return path, buildImages("..", path)
})

// imageBuild is how the Dockerfile builds the program.
const imageBuild = ` scripts/build.sh /root-of-image/reactor "${VERSION}" `

// buildImages builds the program in the folder of the sources as the Dockerfile does.
func buildImages(source, output string) error {
	dockerfile, err := os.ReadFile("../Dockerfile")
	if err != nil {
		return err
	}
	if !strings.Contains(string(dockerfile), imageBuild) {
		return fmt.Errorf("the Dockerfile does not call%s", imageBuild)
	}
	build := exec.Command("scripts/build.sh", output, version)
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("scripts/build.sh: %w\n%s", err, out)
	}
	return nil
}

// builtProgram is program for a test.
func builtProgram(t *testing.T) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs the program of the image with nothing but these variables in its environment.
func run(t *testing.T, env []string, args ...string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, builtProgram(t), args...)
	cmd.Env = append([]string{}, env...) // not nil, which would be ours
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// checkSettings fails the test unless the program accepts all of these variables: it gets past them,
// to a database that is not there.
func checkSettings(t *testing.T, variables map[string]string) {
	t.Helper()
	env := []string{}
	for name, value := range variables {
		env = append(env, name+"="+value)
	}
	// The last one counts. Nothing listens on port 1.
	env = append(env, "REACTOR_DATABASE_URL=postgres://reactor@127.0.0.1:1/reactor", "REACTOR_MQTT_URL=mqtt://127.0.0.1:1", "REACTOR_HTTP_ADDR=127.0.0.1:0")
	code, output := run(t, env, "run")
	if code != 1 || !strings.Contains(output, "127.0.0.1:1") && !strings.Contains(output, "connection refused") {
		t.Errorf("status %d, want 1 and an unreachable database:\n%s", code, output)
	}
	if strings.Contains(output, "is ignored") {
		t.Errorf("the program ignores a variable:\n%s", output)
	}
}
