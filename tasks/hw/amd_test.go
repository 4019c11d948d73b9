package hw_test

import (
	"fmt"
	"testing"
	"testing/fstest"

	"cc-base/tasks/hw"
)

func TestTheGenerationOfAnEPYC(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		family, model int
		want          string
	}{
		{25, 1, "EPYC-Milan"}, {25, 17, "EPYC-Genoa"}, {25, 160, "EPYC-Genoa"}, {26, 2, "EPYC-Turin"}, {26, 17, "EPYC-Turin"},
		{23, 49, ""}, {25, 33, ""}, {6, 207, ""}, {26, 36, ""},
	} {
		root := fstest.MapFS{"proc/cpuinfo": {Data: fmt.Appendf(nil, "processor\t: 0\ncpu family\t: %d\nmodel\t\t: %d\nmodel name\t: AMD EPYC 7B13\n\n", tt.family, tt.model)}}
		got, err := hw.SNPModel(root)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("family %d model %d: %q, %v, want %q", tt.family, tt.model, got, err, tt.want)
		}
	}
	if got, err := hw.SNPModel(fstest.MapFS{}); err == nil {
		t.Errorf("without /proc/cpuinfo: %q", got)
	}
}
