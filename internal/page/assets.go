package page

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"slices"

	"github.com/job-publisher/reactor/internal/chart"
)

//go:embed assets
var assetFiles embed.FS

// asset is a file that the page needs.
type asset struct {
	content   []byte
	kind, tag string
}

var assets, build = loadAssets()

// themeCSS has the colours of the charts, which are those of the page: as the system has it, or as chosen.
const themeCSS = `:root{color-scheme:light;` + chart.Light + `}
@media (prefers-color-scheme:dark){:root:not([data-theme="light"]){color-scheme:dark;` + chart.Dark + `}}
:root[data-theme="dark"]{color-scheme:dark;` + chart.Dark + `}
` + chart.Rules

// kinds are those of the files, because a system's list of them may be missing, or wrong.
var kinds = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// loadAssets reads the files, and names the build after their content: a page of another build loads itself anew.
func loadAssets() (map[string]asset, string) {
	entries, err := assetFiles.ReadDir("assets")
	if err != nil {
		panic(err) // they are in the program
	}
	all, whole := map[string]asset{}, sha256.New()
	add := func(name string, content []byte) {
		sum := sha256.Sum256(content)
		whole.Write(sum[:])
		all[name] = asset{content, kinds[path.Ext(name)], `"` + hex.EncodeToString(sum[:8]) + `"`}
	}
	for _, entry := range entries {
		content, err := assetFiles.ReadFile("assets/" + entry.Name())
		if err != nil {
			panic(err)
		}
		add(entry.Name(), content)
	}
	add("chart.css", []byte(themeCSS))
	whole.Write([]byte(templateText()))
	return all, hex.EncodeToString(whole.Sum(nil)[:8])
}

// serveAsset needs no login: the files are the same for everybody, and the login needs them.
func serveAsset(w http.ResponseWriter, r *http.Request) {
	a, ok := assets[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("ETag", a.tag)
	h.Set("Cache-Control", "no-cache") // ask each time whether it has changed
	if slices.Contains(r.Header.Values("If-None-Match"), a.tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(a.content) // it fails only if the client is gone
}
