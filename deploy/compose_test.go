package deploy

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// composeService is what the tests read of a service.
type composeService struct {
	Build         any               `yaml:"build"`
	Image         string            `yaml:"image"`
	ContainerName string            `yaml:"container_name"`
	Profiles      []string          `yaml:"profiles"`
	Restart       string            `yaml:"restart"`
	ReadOnly      bool              `yaml:"read_only"`
	CapDrop       []string          `yaml:"cap_drop"`
	SecurityOpt   []string          `yaml:"security_opt"`
	CPUs          float64           `yaml:"cpus"`
	MemLimit      string            `yaml:"mem_limit"`
	StopGrace     string            `yaml:"stop_grace_period"`
	Environment   map[string]string `yaml:"environment"`
	Ports         []string          `yaml:"ports"`
	DependsOn     map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
	Healthcheck *struct {
		Test []string `yaml:"test"`
	} `yaml:"healthcheck"`
}

// withDefault matches a variable of compose with a default: ${LOAD:-load.sql}.
var withDefault = regexp.MustCompile(`\$\{[A-Z_]+:-([^}]*)\}`)

func readCompose(t *testing.T) map[string]composeService {
	t.Helper()
	text, err := os.ReadFile("../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Version  string                    `yaml:"version"`
		Services map[string]composeService `yaml:"services"`
	}
	if err := yaml.Unmarshal(withDefault.ReplaceAll(text, []byte("$1")), &file); err != nil {
		t.Fatal(err)
	}
	if file.Version != "" {
		t.Error("a version in the file: compose 1.29 then does not read it as the Compose Specification")
	}
	return file.Services
}

// publishers returns the names of five instances.
func publishers(prefix string) []string {
	names := []string{}
	for _, number := range []string{"one", "two", "three", "four", "five"} {
		names = append(names, prefix+number)
	}
	return names
}

// TestComposePublishers: every instance of docker-compose.yml starts with settings that the program
// knows, is limited and checked, and can do nothing but its work.
func TestComposePublishers(t *testing.T) {
	t.Parallel()
	services := readCompose(t)
	dynamic, static := publishers("job-publisher-parallelized-"), publishers("job-publisher-static-")
	for _, name := range slices.Concat([]string{"job-publisher-single"}, dynamic, static) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, found := services[name]
			if !found {
				t.Fatal("no such service")
			}
			if s.Build == nil || s.Image != "" {
				t.Error("it is not built, or has an image, under which two builds would collide")
			}
			if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
				t.Error("it can do more than its work")
			}
			if s.Healthcheck == nil || !slices.Equal(s.Healthcheck.Test, []string{"CMD", "/reactor", "health"}) {
				t.Errorf("healthcheck %v", s.Healthcheck)
			}
			for _, server := range []string{"postgres", "mosquitto"} {
				if s.DependsOn[server].Condition != "service_healthy" {
					t.Errorf("it does not wait for %s", server)
				}
			}
			// --grace is 10 s if not given.
			if grace, err := time.ParseDuration(s.StopGrace); err != nil || grace <= 10*time.Second {
				t.Errorf("stop_grace_period %q: it is killed while it stops", s.StopGrace)
			}
			if isStatic := slices.Contains(static, name); isStatic != slices.Contains(s.Profiles, "static") {
				t.Errorf("profiles %v", s.Profiles)
			}
			checkSettings(t, s.Environment)
		})
	}
	for i, name := range static {
		if env := services[name].Environment; env["REACTOR_CONSUMER_COUNT"] != "5" || env["REACTOR_CONSUMER_INDEX"] != fmt.Sprint(i) {
			t.Errorf("%s has share %q of %q, want %d of 5", name, env["REACTOR_CONSUMER_INDEX"], env["REACTOR_CONSUMER_COUNT"], i)
		}
	}
	for _, name := range dynamic {
		if count, found := services[name].Environment["REACTOR_CONSUMER_COUNT"]; found {
			t.Errorf("%s has one of %s fixed shares", name, count)
		}
	}
}

// TestComposeServices: each service has limits, restarts and is checked, can be asked for by its own
// name, and is reached from this host only.
func TestComposeServices(t *testing.T) {
	t.Parallel()
	ports := map[string]string{}
	for name, s := range readCompose(t) {
		if s.CPUs <= 0 || s.MemLimit == "" {
			t.Errorf("%s has no limit of cpus or memory", name)
		}
		if name == "load" { // it runs once
			continue
		}
		if s.Restart == "" || s.Healthcheck == nil {
			t.Errorf("%s has no restart policy, or no healthcheck", name)
		}
		if s.ContainerName != name {
			t.Errorf("docker stats %s does not find container %q", name, s.ContainerName)
		}
		for _, port := range s.Ports {
			host := port[:strings.LastIndex(port, ":")]
			if !strings.HasPrefix(host, "127.0.0.1:") {
				t.Errorf("%s publishes %s to everybody", name, port)
			}
			if other, taken := ports[host]; taken {
				t.Errorf("%s and %s both publish %s", name, other, host)
			}
			ports[host] = name
		}
	}
}
