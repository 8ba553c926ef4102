package otlp

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func fromEnvironment(variables map[string]string) (Config, bool, error) {
	return FromEnvironment(func(name string) string { return variables[name] }, Program{Version: "1.2", Instance: "host:7"})
}

func TestDefaults(t *testing.T) {
	cfg, on, err := fromEnvironment(nil)
	if err != nil || !on {
		t.Fatal(on, err)
	}
	want := Config{
		Endpoint: "http://localhost:4318/v1/traces", Timeout: 10 * time.Second, MaxQueue: 2048, BatchSpans: 512, Delay: 5 * time.Second,
		Resource: []Attribute{
			{"service.name", "reactor"},
			{"service.version", "1.2"},
			{"service.instance.id", "host:7"},
			{"reactor.instance", "host:7"},
			{"telemetry.sdk.name", "reactor"},
			{"telemetry.sdk.language", "go"},
			{"telemetry.sdk.version", "1.2"},
		},
		sampler: sampler{parentBased: true},
	}
	if cfg.Headers = nil; !reflect.DeepEqual(cfg, want) {
		t.Errorf("the configuration is\n%+v, want\n%+v", cfg, want)
	}
}

func TestVariables(t *testing.T) {
	cfg, _, err := fromEnvironment(map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector/otlp/ ", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "250", "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
		"OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%2Cb=c, x-scope = 7 ,", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
		"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25",
		"OTEL_SERVICE_NAME": "lamps", "OTEL_RESOURCE_ATTRIBUTES": "service.name=ignored,service.instance.id=pod-7,deployment.environment.name=d%C3%A9v",
		"OTEL_TRACES_EXPORTER": "otlp",
	})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Endpoint != "https://collector/otlp/v1/traces" || cfg.Timeout != 250*time.Millisecond || !cfg.Gzip ||
		cfg.Headers.Get("api-key") != "a,b=c" || cfg.Headers.Get("x-scope") != "7" || len(cfg.Headers) != 2 ||
		cfg.MaxQueue != 100 || cfg.BatchSpans != 100 || cfg.Delay != 20*time.Millisecond || cfg.sampler != (sampler{ratio: 0.25}) {
		t.Errorf("the configuration is %+v", cfg)
	}
	want := []Attribute{
		{"service.name", "lamps"}, {"service.instance.id", "pod-7"}, {"deployment.environment.name", "dév"}, {"service.version", "1.2"}, {"reactor.instance", "host:7"},
	}
	if len(cfg.Resource) < len(want) || !reflect.DeepEqual(cfg.Resource[:len(want)], want) {
		t.Errorf("the resource is %v", cfg.Resource)
	}
	cfg, _, err = fromEnvironment(map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:1/as/it/is", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://b"})
	if err != nil || cfg.Endpoint != "http://a:1/as/it/is" {
		t.Errorf("the endpoint for traces is %q, %v", cfg.Endpoint, err)
	}
	for name, value := range map[string]string{"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "none"} {
		if _, on, err := fromEnvironment(map[string]string{name: value}); on || err != nil {
			t.Errorf("%s=%s: on is %v, %v", name, value, on, err)
		}
	}
	for name, want := range map[string]sampler{
		"always_on": {ratio: 1}, "always_off": {}, "traceidratio": {ratio: 1},
		"parentbased_always_on": {true, 1}, "parentbased_always_off": {true, 0}, "parentbased_traceidratio": {true, 1},
	} {
		if cfg, _, err := fromEnvironment(map[string]string{"OTEL_TRACES_SAMPLER": name}); err != nil || cfg.sampler != want {
			t.Errorf("%s is %+v, %v", name, cfg.sampler, err)
		}
	}
}

// TestMistakes: an error names the variable, and shows no value that may contain a password.
func TestMistakes(t *testing.T) {
	for name, test := range map[string]struct{ variable, value, want string }{
		"grpc":             {"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "speaks http/protobuf only"},
		"grpc for traces":  {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"},
		"no scheme":        {"OTEL_EXPORTER_OTLP_ENDPOINT", "secret:4318", "is no URL"},
		"no host":          {"OTEL_EXPORTER_OTLP_ENDPOINT", "http:///secret", "is no URL"},
		"headers":          {"OTEL_EXPORTER_OTLP_HEADERS", "secret", "name=value"},
		"encoding":         {"OTEL_EXPORTER_OTLP_HEADERS", "a=secret%zz", "%-encoded"},
		"resource":         {"OTEL_RESOURCE_ATTRIBUTES", "a", "name=value"},
		"timeout":          {"OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "whole number"},
		"queue":            {"OTEL_BSP_MAX_QUEUE_SIZE", "0", "whole number"},
		"compression":      {"OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip or none"},
		"certificate":      {"OTEL_EXPORTER_OTLP_CERTIFICATE", "/does/not/exist", "no such file"},
		"no certificate":   {"OTEL_EXPORTER_OTLP_CERTIFICATE", "config_test.go", "PEM"},
		"client without":   {"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "config_test.go", "its key"},
		"sampler":          {"OTEL_TRACES_SAMPLER", "jaeger_remote", "parentbased_traceidratio"},
		"another exporter": {"OTEL_TRACES_EXPORTER", "zipkin", "otlp only"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := fromEnvironment(map[string]string{test.variable: test.value})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.variable) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%v, want %q and the variable", err, test.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("it shows a value that may be secret: %v", err)
			}
		})
	}
	for _, arg := range []string{"x", "-1", "1.1", "NaN"} {
		if _, _, err := fromEnvironment(map[string]string{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": arg}); err == nil || !strings.Contains(err.Error(), "OTEL_TRACES_SAMPLER_ARG") {
			t.Errorf("a ratio of %s: %v", arg, err)
		}
	}
}

func TestBrokerAt(t *testing.T) {
	for url, want := range map[string]Broker{
		"mqtt://user:pass@host": {"host", 1883}, "mqtts://host": {"host", 8883}, "ssl://[::1]:99": {"::1", 99}, "tcp://a": {"a", 1883},
	} {
		if got := BrokerAt(url); got != want {
			t.Errorf("%s: %v", url, got)
		}
	}
}
