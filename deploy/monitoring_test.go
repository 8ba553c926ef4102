package deploy

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestComposeMonitoring: Prometheus asks all instances of docker-compose.yml and nobody else, where they serve; Grafana
// asks Prometheus; and both find their files. Neither starts without its profile.
func TestComposeMonitoring(t *testing.T) {
	t.Parallel()
	var prometheus struct {
		ScrapeConfigs []struct {
			DNS []struct {
				Names []string `yaml:"names"`
				Port  int      `yaml:"port"`
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	readYAML(t, "prometheus/prometheus.yml", &prometheus)
	targets := prometheus.ScrapeConfigs[0].DNS[0]
	var instances []string
	for name, s := range readCompose(t) {
		if address, found := s.Environment["REACTOR_HTTP_ADDR"]; found {
			instances = append(instances, name)
			if address != fmt.Sprint(":", targets.Port) {
				t.Errorf("%s serves at %s, and is asked at port %d", name, address, targets.Port)
			}
		}
		if slices.Contains([]string{"prometheus", "grafana"}, name) && !slices.Equal(s.Profiles, []string{"monitoring"}) {
			t.Errorf("%s has the profiles %v", name, s.Profiles)
		}
	}
	slices.Sort(instances)
	slices.Sort(targets.Names)
	if len(instances) == 0 || !slices.Equal(targets.Names, instances) {
		t.Errorf("Prometheus asks %v, the instances are %v", targets.Names, instances)
	}

	var compose struct {
		Services map[string]struct {
			Volumes []string `yaml:"volumes"`
		} `yaml:"services"`
	}
	readYAML(t, "../docker-compose.yml", &compose)
	mounts := map[string]string{} // what is mounted, by its place in the container
	for _, name := range []string{"prometheus", "grafana"} {
		for _, volume := range compose.Services[name].Volumes {
			parts := strings.Split(volume, ":")
			if !strings.HasPrefix(parts[0], "./") {
				continue
			}
			if _, err := os.Stat("../" + parts[0]); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			mounts[parts[1]] = parts[0]
		}
	}
	var sources struct {
		Datasources []struct {
			Type string `yaml:"type"`
			URL  string `yaml:"url"`
		} `yaml:"datasources"`
	}
	readYAML(t, "grafana/provisioning/datasources/prometheus.yml", &sources)
	if s := sources.Datasources[0]; s.Type != "prometheus" || s.URL != "http://prometheus:9090" {
		t.Errorf("Grafana asks %+v", s)
	}
	var boards struct {
		Providers []struct {
			Options struct {
				Path string `yaml:"path"`
			} `yaml:"options"`
		} `yaml:"providers"`
	}
	readYAML(t, "grafana/provisioning/dashboards/reactor.yml", &boards)
	if path := boards.Providers[0].Options.Path; mounts[path] != "./deploy/grafana/dashboards" {
		t.Errorf("Grafana looks for dashboards in %s, and the volumes are %v", path, mounts)
	}
}
