package browser

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/job-publisher/reactor/internal/wait"
)

// drawnAfter is how long jobs have been published when the pictures are made: the overview shows five minutes.
const drawnAfter = 4 * time.Minute

// longest is how many lines a picture has at most: what is longer goes on in the same way.
const longest = 2600

// draw writes pictures of all pages, in both themes and of a phone, into a folder.
func (d *deployment) draw(t *testing.T, browser context.Context, folder string) {
	db := d.connect(t)
	d.fill(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.produce(ctx, t)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	wait.Sleep(ctx, drawnAfter)
	screens := map[string]screen{
		"light": {width: 1280, height: 900}, "dark": {width: 1280, height: 900, dark: true}, "phone": {width: 390, height: 844, phone: true, sharp: 2},
	}
	tabs := map[string]*tab{}
	take := func(page, path string) {
		t.Helper()
		for name, x := range tabs {
			x.open(d.one.url + path)
			x.until("document.readyState === 'complete' && (!document.body.dataset.live || document.getElementById('age').innerText.startsWith('live'))")
			x.picture(filepath.Join(folder, page+"-"+name+".png"), longest)
		}
	}
	for name, s := range screens {
		s.zone = "Europe/Berlin"
		tabs[name] = newTab(t, browser, s)
		tabs[name].accept(func(text string) bool { return true })
		d.login(tabs[name], d.one, "/")
	}
	take("overview", "/")
	tabs["light"].picture(filepath.Join(folder, "readme.png"), 1033) // to the end of what is to come
	d.fail(t)
	take("trouble", "/")
	take("jobs", "/jobs")
	take("waiting", "/jobs?state=waiting&topic=building/")
	take("failed", "/failed")
	take("job", fmt.Sprintf("/jobs/%d", scan[int64](t, db, "SELECT max(job_id) FROM reactor.failed_jobs")))
	take("schedules", "/schedules")
	take("schedule", "/schedule?name=tariffs")
	for _, x := range tabs {
		x.follow(`form[action="/logout"] button`)
	}
	take("login", "/login")
}

// fill inserts what is due in the next day, and schedules.
func (d *deployment) fill(t *testing.T) {
	t.Helper()
	db := d.connect(t)
	execute(t, db, `INSERT INTO jobs (topic, payload, fire_at) SELECT 'building/' || n % 9 || '/light', '{"on": true}', now() + (n / 60000.0) ^ 2 * (1 + 0.1 * sin(n / 1500.0)) * interval '1 day' FROM generate_series(1, 60000) n`)
	execute(t, db, `INSERT INTO reactor.schedules (name, cron, every, zone, topic, payload, paused) VALUES
		('tariffs', '*/10 * * * * *', NULL, 'Europe/Berlin', 'grid/tariff', '{"at": "{{fire_at}}"}', false),
		('morning lights', '30 6 * * MON-FRI', NULL, 'Europe/Berlin', 'building/all/light', '{"on": true}', false),
		('nightly report', '15 2 * * *', NULL, 'America/New_York', 'report/daily', '{}', false),
		('meters', NULL, '15 seconds', 'UTC', 'meter/read', '{}', false),
		('sirens test', '0 12 1 * *', NULL, 'Europe/Berlin', 'siren/test', 'beep', true)`)
}

// produce inserts jobs as applications would: a few each moment, for the next minute, and now and then many for one instant.
func (d *deployment) produce(ctx context.Context, t *testing.T) {
	db := d.connect(t)
	for n := 0; wait.Sleep(ctx, 100*time.Millisecond); n++ {
		jobs := 8 + n%23/4
		if n%150 == 0 {
			jobs = 200
		}
		if _, err := db.Exec(ctx, `INSERT INTO jobs (topic, payload, key, fire_at)
			SELECT (ARRAY['building/', 'vehicle/', 'meter/', 'door/'])[1 + i % 4] || (random() * 40)::int || '/set', '{"value": ' || i || '}', 'order ' || $1::int || '-' || i,
			       now() + CASE WHEN $2::int = 200 THEN interval '12 seconds' ELSE random() * interval '20 seconds' END FROM generate_series(1, $2::int) i`, n, jobs); err != nil && ctx.Err() == nil {
			t.Error(err)
			return
		}
	}
}

// fail makes jobs that were not published, for several reasons.
func (d *deployment) fail(t *testing.T) {
	t.Helper()
	db := d.connect(t)
	d.expired(t, db, "door/", 12)
	execute(t, db, `WITH j AS (INSERT INTO jobs (topic, payload, key, headers, fire_at, processed, processed_at, claim)
		SELECT 'meter/' || n || '/read', '{"meter": ' || n || ', "unit": "kWh"}', 'reading ' || n, '{"tenant": "north"}', now() - n * interval '40 seconds', true, now() - n * interval '30 seconds', ('72656163-746f-0000-0000-' || lpad(n::text, 12, '0'))::uuid
		FROM generate_series(1, 31) n RETURNING id, claim, processed_at)
		INSERT INTO reactor.failed_jobs (job_id, claim, attempts, code, reason, failed_at)
		SELECT id, claim, 5, CASE WHEN id % 4 = 0 THEN 151 ELSE 135 END, CASE WHEN id % 4 = 0 THEN 'the broker: quota exceeded' ELSE 'the broker: not authorized' END, processed_at FROM j`)
}

// picture writes the page that is shown, or the beginning of it, as so many lines at most, with 256 colours, which is a third of
// the size.
func (x *tab) picture(file string, most int) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.ctx, patience)
	defer cancel()
	data, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		x.t.Fatal(err)
	}
	drawn, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		x.t.Fatal(err)
	}
	whole := drawn.Bounds()
	part := image.Rect(0, 0, whole.Dx(), min(whole.Dy(), most))
	drawn = drawn.(interface {
		SubImage(image.Rectangle) image.Image
	}).SubImage(part)
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, fewColours(drawn)); err != nil {
		x.t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		x.t.Fatal(err)
	}
}

// fewColours returns an image in the 256 colours of which it has most, each of the others as the nearest of these. What is drawn
// of areas and letters, as the page is, has few.
func fewColours(drawn image.Image) image.Image {
	bounds, counts := drawn.Bounds(), map[color.RGBA]int{}
	at := func(x, y int) color.RGBA {
		c := color.RGBAModel.Convert(drawn.At(x, y)).(color.RGBA)
		return color.RGBA{c.R&^3 | c.R>>6, c.G&^3 | c.G>>6, c.B&^3 | c.B>>6, 255} // nobody sees the last two bits
	}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[at(x, y)]++
		}
	}
	var all []color.RGBA
	for c := range counts {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b color.RGBA) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B))
	})
	var palette color.Palette
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	nearest := map[color.RGBA]uint8{}
	for _, c := range all {
		nearest[c] = uint8(palette.Index(c))
	}
	few := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			few.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	return few
}
