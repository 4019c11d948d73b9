package luks2_test

// What green does not prove: the headers are those of the tests. What
// cryptsetup writes is read by the artefact tests, on the real image.

import (
	"bytes"
	"testing"

	"cc-base/installer/installertest"
	"cc-base/validation/internal/luks2"
)

func TestAHeaderAsTheBuildMakesIt(t *testing.T) {
	t.Parallel()
	h, err := luks2.Read(bytes.NewReader(installertest.LUKS2(installertest.LUKS2JSON())))
	if err != nil {
		t.Fatal(err)
	}
	if f := h.Findings(); len(f) > 0 {
		t.Error(f)
	}
	if h.UUID != "11111111-2222-3333-4444-555555555555" || h.Segments["0"].SectorSize != 4096 {
		t.Errorf("got %+v", h)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(installertest.LUKS2(installertest.LUKS2JSON()))
	f.Add(installertest.LUKS2(`{"keyslots":{"0":null},"config":{"requirements":[]}}`))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		if h, err := luks2.Read(bytes.NewReader(raw)); err == nil {
			_ = h.Findings()
		}
	})
}
