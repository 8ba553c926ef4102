// Command pack writes zones.gz, from the time zones of the Go that runs it.
package main

import (
	"archive/zip"
	"bytes"
	"cmp"
	"compress/gzip"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/job-publisher/reactor/internal/zones"
)

func main() {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		log.Fatal(err)
	}
	source, err := zip.OpenReader(filepath.Join(strings.TrimSpace(string(root)), "lib/time/zoneinfo.zip"))
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	packed, err := pack(source.File)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("zones.gz", packed, 0o644); err != nil {
		log.Fatal(err)
	}
}

func pack(files []*zip.File) ([]byte, error) {
	files = slices.SortedFunc(slices.Values(files), func(a, b *zip.File) int { return cmp.Compare(a.Name, b.Name) })
	var all []byte
	for _, file := range files {
		if file.FileInfo().IsDir() {
			continue
		}
		reader, err := file.Open()
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(reader)
		if err != nil {
			return nil, err
		}
		all = zones.Append(all, file.Name, data)
	}
	var packed bytes.Buffer
	zipper, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := zipper.Write(all); err != nil {
		return nil, err
	}
	if err := zipper.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}
