package zones

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestZonesAreThoseOfGo: after an update of Go, `go generate ./internal/zones` makes them the same again.
func TestZonesAreThoseOfGo(t *testing.T) {
	t.Parallel()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := zip.OpenReader(filepath.Join(strings.TrimSpace(string(root)), "lib/time/zoneinfo.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	all := make(map[string][]byte)
	for entry, err := range entries() {
		if err != nil {
			t.Fatal(err)
		}
		all[entry.name] = entry.data
	}
	compared := 0
	for _, file := range source.File {
		if file.FileInfo().IsDir() {
			continue
		}
		reader, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		if got := all[file.Name]; !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes that are not the %d of Go: run go generate ./internal/zones", file.Name, len(got), len(want))
		}
		compared++
	}
	if compared < 500 {
		t.Errorf("compared %d zones", compared)
	}
}

// TestSystemWithoutZones: all names that Go knows are found, and others nowhere.
func TestSystemWithoutZones(t *testing.T) {
	t.Parallel()
	missing := errors.New("no such zone")
	none := func(string) (*time.Location, error) { return nil, missing }
	for _, name := range []string{"Europe/Nowhere", "../etc/passwd", "/etc/localtime", "Local"} {
		if zone, err := load(name, none); !errors.Is(err, missing) {
			t.Errorf("%q is %v, %v", name, zone, err)
		}
	}
	for range 2 { // the second one is kept from the first
		zone, err := load("Asia/Kathmandu", none)
		if err != nil {
			t.Fatal(err)
		}
		if at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).In(zone).Format("15:04 MST"); at != "05:45 +0545" {
			t.Errorf("midnight UTC is %s in Kathmandu", at)
		}
	}
}

// TestSystemComesFirst: its rules may be newer.
func TestSystemComesFirst(t *testing.T) {
	t.Parallel()
	newer := time.FixedZone("newer", 60)
	if zone, err := load("Europe/Berlin", func(string) (*time.Location, error) { return newer, nil }); zone != newer || err != nil {
		t.Errorf("%v, %v", zone, err)
	}
}
