package mqttsink

import (
	"fmt"
	"strings"
	"testing"
)

// FuzzPassword: whatever a password contains that is not encoded, no part of it is shown: neither in an error about
// the URL, nor as the address in the errors of connecting. "sesame" stands in its middle.
func FuzzPassword(f *testing.F) {
	for _, s := range []string{"", "12", "12/", "1@2", "?x=", "#", "%", "%zz", "&", ":", "[", "]:1/", " ", "://", "\\"} {
		f.Add(s, "")
		f.Add("12", s)
		f.Add(s, "/x")
	}
	f.Fuzz(func(t *testing.T, front, back string) {
		for _, form := range []string{"mqtt://u:%s@host", "mqtts://u:%s@host:8883/", "u:%s@host", "ws://u:%s@host/mqtt", "wss://u:%s@host", "%s://host", "mqtt://u:%s"} {
			if strings.Contains(front, "@") && !strings.Contains(form, "@") {
				continue // then it stands for a host
			}
			url := fmt.Sprintf(form, front+"sesame"+back)
			at, who, err := parseURL(url)
			switch {
			case err != nil && strings.Contains(err.Error(), "sesame"):
				t.Errorf("%q: %v", url, err)
			case err == nil && strings.Contains(at.address+at.host+who.username, "sesame"):
				t.Errorf("%q is taken for %s", url, at.address)
			}
		}
	})
}
