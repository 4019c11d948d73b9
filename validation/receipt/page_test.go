package receipt

import (
	"bytes"
	"strings"
	"testing"

	"cc-base/tasks/golden"
	"cc-base/validation/check"
)

// rows are of each kind that there is.
func rows() []Acceptance {
	return []Acceptance{
		{"proven", check.TierArtefact, []string{"bundle.checksums", "bundle.unlisted"}},
		{"proven on silicon", check.TierSilicon, []string{"guest.sealed"}},
		{"too weak", check.TierSilicon, []string{"guest.sealed", "host.kernel"}},
		{"skipped", check.TierKVM, []string{"guest.ssh", "host.kernel"}},
		{"no check", check.TierKVM, nil},
	}
}

func page(t *testing.T, dir string, o Options) string {
	t.Helper()
	set, err := Verify(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WritePage(&b, set, registry(), rows()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestThePageSaysWhatIsProvenAndWhatIsNot(t *testing.T) {
	t.Parallel()
	dir, _ := good(t)
	first := page(t, dir, options())
	golden.Compare(t, "VALIDATION.md", first)
	// Other runs of the same checks, with other names, give the same page.
	other, _ := good(t)
	if page(t, other, options()) != first {
		t.Error("the page depends on more than the verdicts")
	}
}

func TestThePageSaysWhatWasNotRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, check.Artefact, nil)
	o := options()
	o.Registry = o.Registry[:2]
	text := page(t, dir, o)
	for _, want := range []string{
		"| host.kernel | the kernel will do | not run |",
		"- memory is sealed from the host (guest.sealed): not run\n",
		"- bundle.checksums: proven at tier artefact\n",
		"| proven on silicon | silicon | guest.sealed | not proven: 0 of 1 checks passed |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestThePageShowsTheStrongestPass(t *testing.T) {
	t.Parallel()
	dir, _ := good(t)
	write(t, dir, check.Guest, func(s *Source) {
		s.Most = check.TierTCG
		s.Results[1].Verdict = check.Passed("nothing listens")
	})
	text := page(t, dir, options())
	for _, want := range []string{"| guest.sealed | memory is sealed from the host | pass | silicon |", "| pass | tcg | guest | 2026-03-01 | nothing listens |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
