package otlp

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Config says where spans go, and which jobs get one.
type Config struct {
	Endpoint string // URL of the collector, with its path
	Headers  http.Header
	Timeout  time.Duration // of one request
	Gzip     bool
	TLS      *tls.Config // nil: the system's authorities

	// MaxQueue is how many spans wait for the collector at most, BatchSpans how many one request
	// carries, and Delay how long a span waits for others.
	MaxQueue, BatchSpans int
	Delay                time.Duration

	// Resource describes the program, Broker where it publishes.
	Resource []Attribute
	Broker   Broker

	sampler sampler
}

// Attribute is an attribute with a text.
type Attribute struct{ Name, Value string }

// Broker is the host and the port of the broker; the port may be 0.
type Broker struct {
	Host string
	Port int
}

// Program describes this program.
type Program struct {
	Version  string
	Instance string // its name
}

// FromEnvironment reads the variables of OpenTelemetry. As there, an empty variable counts as not set. on is false if
// they turn traces off. An error is one line that names the variable and what to do.
func FromEnvironment(getenv func(string) string, program Program) (cfg Config, on bool, err error) {
	env := environment{getenv: func(name string) string { return strings.TrimSpace(getenv(name)) }}
	if strings.EqualFold(env.getenv("OTEL_SDK_DISABLED"), "true") {
		return cfg, false, nil
	}
	switch exporter := cmp.Or(env.getenv("OTEL_TRACES_EXPORTER"), "otlp"); exporter {
	case "otlp":
	case "none":
		return cfg, false, nil
	default:
		return cfg, false, fmt.Errorf("OTEL_TRACES_EXPORTER is %q: reactor exports by otlp only; set it to otlp, or to none", exporter)
	}
	if name, protocol := env.otlp("PROTOCOL"); protocol != "" && protocol != "http/protobuf" {
		return cfg, false, fmt.Errorf("%s is %q: reactor speaks http/protobuf only; set it to that, and the endpoint to the collector's port for HTTP, which is 4318 by default", name, protocol)
	}
	cfg.Endpoint = env.endpoint()
	cfg.Headers = env.headers()
	cfg.Timeout = env.milliseconds("10000", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
	switch name, compression := env.otlp("COMPRESSION"); compression {
	case "", "none":
	case "gzip":
		cfg.Gzip = true
	default:
		env.fail("%s is %q: use gzip or none", name, compression)
	}
	cfg.TLS = env.tls()
	cfg.MaxQueue = env.number(2048, "OTEL_BSP_MAX_QUEUE_SIZE")
	cfg.BatchSpans = min(env.number(512, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"), cfg.MaxQueue)
	cfg.Delay = env.milliseconds("5000", "OTEL_BSP_SCHEDULE_DELAY")
	cfg.sampler = env.sampler()
	cfg.Resource = env.resource(program)
	return cfg, true, env.err
}

// environment reads variables, and keeps the first error.
type environment struct {
	getenv func(string) string
	err    error
}

func (e *environment) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(format, args...)
	}
}

// otlp returns a setting of the exporter: the variable for traces, or else the one for all signals.
func (e *environment) otlp(setting string) (name, value string) {
	for _, name = range []string{"OTEL_EXPORTER_OTLP_TRACES_" + setting, "OTEL_EXPORTER_OTLP_" + setting} {
		if value = e.getenv(name); value != "" {
			break
		}
	}
	return name, value
}

// endpoint is the URL for traces. The one for all signals is their base.
func (e *environment) endpoint() string {
	name, text := e.otlp("ENDPOINT")
	text = cmp.Or(text, "http://localhost:4318")
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		e.fail("%s is no URL with http:// or https:// and a host, such as http://collector:4318", name) // it may contain a password
		return ""
	}
	if name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
		u = u.JoinPath("v1", "traces")
	}
	return u.String()
}

// headers are name=value, separated by commas, with %-encoded values.
func (e *environment) headers() http.Header {
	name, text := e.otlp("HEADERS")
	headers := http.Header{}
	for _, a := range e.list(name, text) {
		headers.Set(a.Name, a.Value)
	}
	return headers
}

// list reads name=value, separated by commas, with %-encoded names and values.
func (e *environment) list(variable, text string) (list []Attribute) {
	for part := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		name, err := url.PathUnescape(strings.TrimSpace(name))
		value, err2 := url.PathUnescape(strings.TrimSpace(value))
		if !ok || name == "" || err != nil || err2 != nil {
			e.fail("%s is not of the form name=value,name=value, with special characters %%-encoded", variable) // it may contain a password
			return nil
		}
		list = append(list, Attribute{name, value})
	}
	return list
}

// milliseconds reads the first of the variables that is set.
func (e *environment) milliseconds(otherwise string, names ...string) time.Duration {
	for _, name := range names {
		if text := e.getenv(name); text != "" {
			return time.Duration(e.atLeastOne(name, text)) * time.Millisecond
		}
	}
	return time.Duration(e.atLeastOne("", otherwise)) * time.Millisecond
}

func (e *environment) number(otherwise int, name string) int {
	if text := e.getenv(name); text != "" {
		return e.atLeastOne(name, text)
	}
	return otherwise
}

func (e *environment) atLeastOne(name, text string) int {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		e.fail("%s is %q: must be a whole number, 1 to 2147483647", name, text)
		return 1
	}
	return int(n)
}

// tls reads the files of the certificates.
func (e *environment) tls() *tls.Config {
	authority, ca := e.otlp("CERTIFICATE")
	certificate, cert := e.otlp("CLIENT_CERTIFICATE")
	_, key := e.otlp("CLIENT_KEY")
	if ca == "" && cert == "" && key == "" {
		return nil
	}
	cfg := &tls.Config{}
	if ca != "" {
		text, err := os.ReadFile(ca)
		if cfg.RootCAs = x509.NewCertPool(); err != nil {
			e.fail("%s: %w", authority, err)
		} else if !cfg.RootCAs.AppendCertsFromPEM(text) {
			e.fail("%s: there is no certificate in %s: it must be a PEM file", authority, ca)
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			e.fail("%s and the variable for its key: %w", certificate, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg
}

// sampler is OTEL_TRACES_SAMPLER. Without it, jobs without a traceparent get no span: most jobs are nobody's
// trace, and OpenTelemetry's default, parentbased_always_on, would make one of each.
func (e *environment) sampler() sampler {
	const variable, argument = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
	name := cmp.Or(e.getenv(variable), "parentbased_always_off")
	root, parentBased := strings.CutPrefix(name, "parentbased_")
	s := sampler{parentBased: parentBased}
	switch root {
	case "always_on":
		s.ratio = 1
	case "always_off":
	case "traceidratio":
		text := cmp.Or(e.getenv(argument), "1")
		ratio, err := strconv.ParseFloat(text, 64)
		if err != nil || !(ratio >= 0 && ratio <= 1) { // NaN is refused as well
			e.fail("%s is %q: must be a number from 0 to 1", argument, text)
		}
		s.ratio = ratio
	default:
		e.fail("%s is %q: use always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or parentbased_traceidratio", variable, name)
	}
	return s
}

// resource describes the program. What the variables say goes before what we know ourselves.
func (e *environment) resource(program Program) []Attribute {
	const variable = "OTEL_RESOURCE_ATTRIBUTES"
	given := e.list(variable, e.getenv(variable))
	var service []Attribute
	if name := e.getenv("OTEL_SERVICE_NAME"); name != "" {
		service = []Attribute{{"service.name", name}}
	}
	known := []Attribute{
		{"service.name", "reactor"},
		{"service.version", program.Version},
		{"service.instance.id", program.Instance},
		{"reactor.instance", program.Instance},
		{"telemetry.sdk.name", "reactor"},
		{"telemetry.sdk.language", "go"},
		{"telemetry.sdk.version", program.Version},
	}
	var all []Attribute
	seen := map[string]bool{}
	for _, list := range [][]Attribute{service, given, known} {
		for _, a := range list {
			if a.Value != "" && !seen[a.Name] {
				seen[a.Name] = true
				all = append(all, a)
			}
		}
	}
	return all
}

// BrokerAt reads host and port from the broker's URL.
func BrokerAt(text string) Broker {
	u, err := url.Parse(text)
	if err != nil {
		return Broker{}
	}
	port, err := strconv.Atoi(u.Port())
	switch {
	case err == nil:
	case u.Scheme == "mqtt" || u.Scheme == "tcp":
		port = 1883
	case u.Scheme == "ws":
		port = 80
	case u.Scheme == "wss":
		port = 443
	default:
		port = 8883
	}
	return Broker{u.Hostname(), port}
}
