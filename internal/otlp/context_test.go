package otlp

import (
	"strings"
	"testing"
)

func TestTraceparent(t *testing.T) {
	const valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for text, want := range map[string]bool{
		valid:                               true,
		valid[:53] + "00":                   true,
		valid[:53] + "ff":                   true,
		"cc" + valid[2:]:                    true, // a later version
		"cc" + valid[2:] + "-more":          true,
		"":                                  false,
		"00":                                false,
		valid[:54]:                          false,
		valid + "-more":                     false, // version 00 has no more
		valid + "0":                         false,
		"cc" + valid[2:] + "0":              false,
		"ff" + valid[2:]:                    false,
		strings.ToUpper(valid):              false,
		"0x" + valid[2:]:                    false,
		strings.ReplaceAll(valid, "-", "_"): false,
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01": false,
		"00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01": false,
		" " + valid: false,
	} {
		if _, ok := parseTraceparent(text); ok != want {
			t.Errorf("%q is valid: %v, want %v", text, ok, want)
		}
	}
	c, _ := parseTraceparent(valid)
	if c.trace[0] != 0x4b || c.trace[15] != 0x36 || c.span[0] != 0 || c.span[7] != 0xb7 || c.flags != flagSampled {
		t.Errorf("read %+v", c)
	}
	if c.String() != valid {
		t.Errorf("%s becomes %s", valid, c)
	}
}

// FuzzTraceparent: what can be read is written so that it says the same.
func FuzzTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe-x")
	f.Fuzz(func(t *testing.T, text string) {
		c, ok := parseTraceparent(text)
		if !ok {
			return
		}
		if again, ok := parseTraceparent(c.String()); !ok || again != c {
			t.Errorf("%q is %+v, and %q is %+v, %v", text, c, c, again, ok)
		}
		if c.String()[3:52] != text[3:52] {
			t.Errorf("%q becomes %q", text, c)
		}
	})
}

func TestSampler(t *testing.T) {
	sampled, not := &spanContext{flags: flagSampled}, &spanContext{}
	low, high := [16]byte{}, [16]byte{8: 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for _, test := range []struct {
		sampler sampler
		parent  *spanContext
		trace   [16]byte
		want    bool
	}{
		{sampler{parentBased: true}, sampled, high, true},
		{sampler{parentBased: true, ratio: 1}, not, low, false},
		{sampler{parentBased: true}, nil, low, false},
		{sampler{parentBased: true, ratio: 1}, nil, high, true},
		{sampler{ratio: 1}, not, high, true},
		{sampler{}, sampled, low, false},
		{sampler{ratio: 0.5}, sampled, high, false},
		{sampler{ratio: 0.5}, not, low, true},
		{sampler{ratio: 0.5}, nil, [16]byte{8: 0x7f, 0xff}, true},
		{sampler{ratio: 0.5}, nil, [16]byte{8: 0x80}, false},
	} {
		if got := test.sampler.samples(test.parent, test.trace); got != test.want {
			t.Errorf("%+v, parent %v, trace %x: %v", test.sampler, test.parent, test.trace, got)
		}
	}
}
