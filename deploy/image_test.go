package deploy

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maxImageBytes is for the whole image: the program, and the certificates, 0.3 MB at most.
const maxImageBytes = 20_000_000

// TestImagesProgram: what the Dockerfile builds runs in an empty image, says its version, and leaves
// room for the certificates.
func TestImagesProgram(t *testing.T) {
	t.Parallel()
	file, err := elf.Open(builtProgram(t))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
			t.Errorf("the program has a segment %v: it needs a dynamic linker, and the image has none", segment.Type)
		}
	}
	info, err := os.Stat(builtProgram(t))
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(maxImageBytes - 300_000); info.Size() > most {
		t.Errorf("the program has %d bytes, more than %d", info.Size(), most)
	}
	if code, output := run(t, nil, "version"); code != 0 || !strings.Contains(output, version) {
		t.Errorf("status %d, version %q, want %s", code, output, version)
	}
}

// TestBuildIsReproducible: the same files in another folder give the same program, byte for byte.
func TestBuildIsReproducible(t *testing.T) {
	t.Parallel()
	elsewhere := filepath.Join(t.TempDir(), "another", "folder")
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(elsewhere, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(elsewhere, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// What the program is made of.
	for _, name := range []string{"cmd", "internal", "mqttsink", "pgsource", "reactor", "schedule", "scripts", "sql", "timerwheel", "producer"} {
		if err := os.CopyFS(filepath.Join(elsewhere, name), os.DirFS(filepath.Join("..", name))); err != nil {
			t.Fatal(err)
		}
	}
	again := filepath.Join(t.TempDir(), "reactor")
	if err := buildImages(elsewhere, again); err != nil {
		t.Fatal(err)
	}
	one, err := os.ReadFile(builtProgram(t))
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Errorf("two builds differ: %d and %d bytes", len(one), len(two))
	}
}

// TestDockerfile: nothing but our files in the image, and a user who is not root, by number.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, image, found := strings.Cut(string(text), "\nFROM scratch\n")
	if !found {
		t.Fatal("no image FROM scratch")
	}
	if user := regexp.MustCompile(`(?m)^USER ([1-9]\d*):([1-9]\d*)$`).FindStringSubmatch(image); user == nil {
		t.Error("no USER with the number of a user and of a group")
	}
	if strings.Contains(image, "\nFROM ") {
		t.Error("the image is not the last stage")
	}
	for _, line := range []string{`HEALTHCHECK .*CMD \["/reactor", "health"\]`, `ENTRYPOINT \["/reactor"\]`, `CMD \["run"\]`} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(image) {
			t.Errorf("no line %s", line)
		}
	}
}
