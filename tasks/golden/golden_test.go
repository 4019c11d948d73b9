package golden_test

import (
	"fmt"
	"strings"
	"testing"

	"cc-base/tasks/golden"
)

// probe is a test that notes its failure instead of failing.
type probe struct {
	testing.TB
	said string
}

func (p *probe) Helper()                           {}
func (p *probe) Errorf(format string, args ...any) { p.said += fmt.Sprintf(format, args...) }
func (p *probe) Fatal(args ...any)                 { p.said += fmt.Sprint(args...) }

func TestCompareTellsWhatDiffersByteForByte(t *testing.T) {
	if golden.Updating() {
		t.Skip("with -update everything is the same")
	}
	for got, want := range map[string]string{
		"two\nlines\n": "",
		"two\nlines":   "rewrite with -update",
		"two\nLines\n": "rewrite with -update",
		"":             "rewrite with -update",
	} {
		p := &probe{TB: t}
		golden.Compare(p, "sample.txt", got)
		if (p.said == "") != (want == "") || !strings.Contains(p.said, want) {
			t.Errorf("%q: it says %q", got, p.said)
		}
	}
	p := &probe{TB: t}
	if golden.Compare(p, "none.txt", ""); !strings.Contains(p.said, "none.txt: no such file") {
		t.Errorf("a missing file: it says %q", p.said)
	}
}
