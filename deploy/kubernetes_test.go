package deploy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	psaapi "k8s.io/pod-security-admission/api"
	psapolicy "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	k8syaml "sigs.k8s.io/yaml"
)

// cluster is what kustomize makes of a folder, decoded as a server with strict validation does.
type cluster struct {
	namespaces  map[string]*corev1.Namespace
	accounts    map[string]*corev1.ServiceAccount
	services    map[string]*corev1.Service
	configs     map[string]*corev1.ConfigMap
	secrets     map[string]*corev1.Secret
	deployments map[string]*appsv1.Deployment
	budgets     map[string]*policyv1.PodDisruptionBudget
	policies    map[string]*networkingv1.NetworkPolicy
	monitors    map[string]*serviceMonitor
}

// serviceMonitor is the part of the Prometheus operator's kind that we use.
type serviceMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector  metav1.LabelSelector `json:"selector"`
		Endpoints []struct {
			Port     string `json:"port"`
			Path     string `json:"path"`
			Interval string `json:"interval"`
		} `json:"endpoints"`
	} `json:"spec"`
}

// decode adds a document to the objects of its kind. A field that the kind does not have is an error.
func decode[T any](document []byte, name string, objects *map[string]*T) error {
	object := new(T)
	if err := k8syaml.UnmarshalStrict(document, object); err != nil {
		return err
	}
	if *objects == nil {
		*objects = map[string]*T{}
	}
	(*objects)[name] = object
	return nil
}

func render(t *testing.T, folder string) cluster {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		t.Fatal(err)
	}
	var c cluster
	for _, r := range resources.Resources() {
		document, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		kind := r.GetApiVersion() + " " + r.GetKind()
		switch kind {
		case "v1 Namespace":
			err = decode(document, r.GetName(), &c.namespaces)
		case "v1 ServiceAccount":
			err = decode(document, r.GetName(), &c.accounts)
		case "v1 Service":
			err = decode(document, r.GetName(), &c.services)
		case "v1 ConfigMap":
			err = decode(document, r.GetName(), &c.configs)
		case "v1 Secret":
			err = decode(document, r.GetName(), &c.secrets)
		case "apps/v1 Deployment":
			err = decode(document, r.GetName(), &c.deployments)
		case "policy/v1 PodDisruptionBudget":
			err = decode(document, r.GetName(), &c.budgets)
		case "networking.k8s.io/v1 NetworkPolicy":
			err = decode(document, r.GetName(), &c.policies)
		case "monitoring.coreos.com/v1 ServiceMonitor":
			err = decode(document, r.GetName(), &c.monitors)
		default:
			t.Errorf("%s %s: no test knows this kind", kind, r.GetName())
		}
		if err != nil {
			t.Errorf("%s %s: %v\n%s", kind, r.GetName(), err, document)
		}
		if kind != "v1 Namespace" && r.GetNamespace() != "reactor" {
			t.Errorf("%s %s is in namespace %q", kind, r.GetName(), r.GetNamespace())
		}
	}
	return c
}

// selects fails the test unless a selector means the pods.
func selects(t *testing.T, what string, selector *metav1.LabelSelector, pod map[string]string) {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	if s.Empty() || !s.Matches(labels.Set(pod)) {
		t.Errorf("%s selects %s, and the pods have %v", what, s, pod)
	}
}

// TestKubernetesBase: the base renders, and all that is in it belongs together.
func TestKubernetesBase(t *testing.T) {
	t.Parallel()
	c := render(t, "kubernetes/base")
	d := c.deployments["reactor"]
	if d == nil {
		t.Fatal("no Deployment")
	}
	pod := d.Spec.Template
	selects(t, "the Deployment", d.Spec.Selector, pod.Labels)
	selects(t, "the PodDisruptionBudget", c.budgets["reactor"].Spec.Selector, pod.Labels)
	selects(t, "the NetworkPolicy", &c.policies["reactor"].Spec.PodSelector, pod.Labels)
	selects(t, "the Service", metav1.SetAsLabelSelector(c.services["reactor"].Spec.Selector), pod.Labels)
	for _, spread := range pod.Spec.TopologySpreadConstraints {
		selects(t, "the spread over nodes", spread.LabelSelector, pod.Labels)
	}
	if c.accounts[pod.Spec.ServiceAccountName] == nil {
		t.Errorf("no ServiceAccount %s", pod.Spec.ServiceAccountName)
	}
	if auto := pod.Spec.AutomountServiceAccountToken; auto == nil || *auto {
		t.Error("the pod gets a token for Kubernetes, and needs none")
	}
	if s := *pod.Spec.TerminationGracePeriodSeconds; s <= 10 { // --grace
		t.Errorf("killed after %d s, while it stops", s)
	}
	if least, most := *d.Spec.Replicas, c.budgets["reactor"].Spec.MaxUnavailable.IntVal; least <= most {
		t.Errorf("%d instances, of which %d may be away", least, most)
	}
	container := pod.Spec.Containers[0]
	http := container.Ports[0]
	for name, probe := range map[string]*corev1.Probe{"startup": container.StartupProbe, "readiness": container.ReadinessProbe, "liveness": container.LivenessProbe} {
		want := "/healthz"
		if name == "readiness" {
			want = "/readyz"
		}
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != want || probe.HTTPGet.Port.StrVal != http.Name {
			t.Errorf("%s probe: %v, want %s at port %s", name, probe, want, http.Name)
		}
	}
	if value := variables(container)["REACTOR_HTTP_ADDR"]; value != fmt.Sprintf(":%d", http.ContainerPort) {
		t.Errorf("the instance serves at %q, and the probes ask port %d", value, http.ContainerPort)
	}
	if target := c.services["reactor"].Spec.Ports[0].TargetPort.StrVal; target != http.Name {
		t.Errorf("the Service leads to port %q", target)
	}
	if container.Resources.Limits.Memory().IsZero() || container.Resources.Requests.Cpu().IsZero() {
		t.Error("no limit of memory, or no request of CPU")
	}
}

// TestKubernetesIsRestricted: Kubernetes' own judge of Pod Security lets the pods into the namespace.
func TestKubernetesIsRestricted(t *testing.T) {
	t.Parallel()
	c := render(t, "kubernetes/base")
	if level := c.namespaces["reactor"].Labels[psaapi.EnforceLevelLabel]; level != string(psaapi.LevelRestricted) {
		t.Errorf("the namespace enforces %q", level)
	}
	judge, err := psapolicy.NewEvaluator(psapolicy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	pod := c.deployments["reactor"].Spec.Template
	restricted := psaapi.LevelVersion{Level: psaapi.LevelRestricted, Version: psaapi.LatestVersion()}
	if result := psapolicy.AggregateCheckResults(judge.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec)); !result.Allowed {
		t.Errorf("%s: %s", result.ForbiddenReason(), result.ForbiddenDetail())
	}
	for _, container := range pod.Spec.Containers {
		if s := container.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Errorf("%s may write its root", container.Name)
		}
	}
}

// TestKubernetesExample: the overlay completes the base, with settings that the program knows, and with
// no password but in files.
func TestKubernetesExample(t *testing.T) {
	t.Parallel()
	c := render(t, "kubernetes/example")
	pod := c.deployments["reactor"].Spec.Template.Spec
	container := pod.Containers[0]
	if container.Image == "reactor" {
		t.Error("the overlay sets no image")
	}
	settings := variables(container)
	for _, from := range container.EnvFrom {
		config := c.configs[from.ConfigMapRef.Name]
		if config == nil {
			t.Fatalf("no ConfigMap %s, but %v", from.ConfigMapRef.Name, slices.Collect(maps.Keys(c.configs)))
		}
		maps.Copy(settings, config.Data)
	}
	mount := container.VolumeMounts[0].MountPath + "/"
	secret := c.secrets[pod.Volumes[0].Secret.SecretName]
	if secret == nil {
		t.Fatalf("no Secret %s", pod.Volumes[0].Secret.SecretName)
	}
	for name, value := range settings {
		for range strings.Count(value, mount) {
			_, file, _ := strings.Cut(value, mount)
			if _, found := secret.Data[file]; !found {
				t.Errorf("%s names %s, which is not in the Secret", name, mount+file)
			}
		}
		if strings.Contains(value, "change-me") {
			t.Errorf("%s has a password", name)
		}
	}
	// The file is not here, and a missing one is refused.
	delete(settings, "REACTOR_MQTT_PASSWORD_FILE")
	checkSettings(t, settings)
	monitor, service := c.monitors["reactor"], c.services["reactor"]
	selects(t, "the ServiceMonitor", &monitor.Spec.Selector, service.Labels)
	if got, want := monitor.Spec.Endpoints[0].Port, service.Spec.Ports[0].Name; got != want {
		t.Errorf("the ServiceMonitor asks port %q, the Service has %q", got, want)
	}
}

// TestStrictDecoding: what the other tests rest on. A field that is spelled wrongly is found.
func TestStrictDecoding(t *testing.T) {
	t.Parallel()
	var objects map[string]*appsv1.Deployment
	if err := decode([]byte("kind: Deployment\nspec: {replica: 2}\n"), "x", &objects); err == nil {
		t.Error("replica instead of replicas was not noticed")
	}
}

// variables returns the variables of a container that have a fixed value.
func variables(c corev1.Container) map[string]string {
	values := map[string]string{}
	for _, v := range c.Env {
		if v.ValueFrom == nil {
			values[v.Name] = v.Value
		}
	}
	return values
}
