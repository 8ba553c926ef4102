package chart

// Colours is how many colours of series there are. Further series repeat them with other dashes or letters.
const Colours = 6

// The variables of the two themes. --c1 to --c6 are colours of series, --ink, --muted and --grid those of texts
// and lines, --ground what charts are drawn on, --panel a surface that may lie on it; --good, --warn and --bad are
// for texts and marks of states, which a page must not tell by colour alone.
//
// TestContrast: each of them but --grid has a contrast of at least 4.5 with --ground and --panel (WCAG AA for
// texts), so that a letter in the colour of the ground can be read on a mark in any of them. TestColoursDiffer: those of series
// differ for people with protanopia, deuteranopia and tritanopia as well.
const (
	Light = `--ground:#ffffff;--panel:#f6f8fa;--ink:#1b1f24;--muted:#57606a;--grid:#d8dee4;` +
		`--c1:#2c61fe;--c2:#bd4d00;--c3:#18524c;--c4:#8c598f;--c5:#6816a1;--c6:#392c01;` +
		`--good:#116329;--warn:#7d4e00;--bad:#b3142a;`
	Dark = `--ground:#0f141a;--panel:#171d25;--ink:#e6edf3;--muted:#9aa7b4;--grid:#2b333d;` +
		`--c1:#4588f7;--c2:#f19a4b;--c3:#affded;--c4:#be728a;--c5:#b8b7f0;--c6:#f7ea3c;` +
		`--good:#4ac26b;--warn:#e3b341;--bad:#ff8182;`
)

// Rules are those of the classes of charts. They need the variables. Texts become smaller, in units of the
// viewBox, when the box is wider, and so keep their size on the screen.
const Rules = `.chart{display:block;width:100%;height:auto;overflow:visible}
.chart text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums;fill:var(--muted)}
.chart .n{fill:var(--ink)}
.chart .h{font-size:14px;font-weight:600;fill:var(--ink)}
.chart .big{font-size:24px;font-weight:600;fill:var(--ink)}
.chart .g{stroke:var(--grid);fill:none}
.chart .a{stroke:var(--muted);fill:none}
.chart .l{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.chart .b{fill:var(--c)}
.chart .none{fill:none;stroke:var(--muted);stroke-dasharray:2 2}
.chart .on{fill:var(--ground);font-weight:600}
.chart .hand{stroke:var(--ink);stroke-width:2.5;stroke-linecap:round}
.chart .c1{--c:var(--c1)}.chart .c2{--c:var(--c2)}.chart .c3{--c:var(--c3)}.chart .c4{--c:var(--c4)}.chart .c5{--c:var(--c5)}.chart .c6{--c:var(--c6)}
.chart .d2{stroke-dasharray:7 3.5}.chart .d3{stroke-dasharray:1.5 3.5}.chart .d4{stroke-dasharray:8 3.5 1.5 3.5}.chart .d5{stroke-dasharray:12 4}.chart .d6{stroke-dasharray:4 3.5}
.chart-box{container-type:inline-size}
@container (min-width:380px){.chart text{font-size:10.5px}.chart .h{font-size:12px}.chart .big{font-size:22px}}
@container (min-width:460px){.chart text{font-size:9px}.chart .h{font-size:10.5px}.chart .big{font-size:20px}}
@container (min-width:560px){.chart text{font-size:7.5px}.chart .h{font-size:9px}.chart .big{font-size:18px}}
@media (forced-colors:active){.chart text{fill:CanvasText}.chart .l,.chart .b,.chart .on{forced-color-adjust:none}}
`

// Stylesheet is all of it for a page that has nothing of its own: the theme is that of the system.
const Stylesheet = `:root{color-scheme:light dark;` + Light + `}
@media (prefers-color-scheme:dark){:root{` + Dark + `}}
` + Rules
