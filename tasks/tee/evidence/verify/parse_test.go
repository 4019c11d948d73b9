package verify

import (
	"bytes"
	"testing"

	"github.com/google/go-sev-guest/abi"
	snpdata "github.com/google/go-sev-guest/verify/testdata"
	tdxdata "github.com/google/go-tdx-guest/testing/testdata"
)

// The readers alone, without the signatures that make FuzzEvidence slow.
func FuzzReaders(f *testing.F) {
	f.Add(snpdata.AttestationBytes)
	f.Add(snpdata.VcekBytes)
	f.Add(snpdata.MilanVcekBytes)
	f.Add(tdxdata.RawQuote)
	f.Add(tdxdata.RawQuote[:1100])
	f.Add(append(bytes.Repeat([]byte{1}, 16), 0xFF, 0xFF, 0xFF, 0xFF, 2, 0, 0, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		if report, err := snpReport(data); (err == nil) == (report == nil) {
			t.Errorf("report %v, %v", report, err)
		}
		if quote, err := tdxQuote(data); (err == nil) == (quote == nil) {
			t.Errorf("quote %v, %v", quote, err)
		}
		if entry, err := fromTable(data, abi.VcekGUID); err == nil && len(entry) == 0 {
			t.Error("an empty certificate")
		}
		if roots, err := amdRoots(data); err == nil && data != nil && len(roots) == 0 {
			t.Error("roots that are none: the pinned ones would take their place")
		}
		_, _, _ = parseVCEK(der(data))
		_, _ = fmspc(data)
		_, _ = Options{}.intelRoots(data)
	})
}
