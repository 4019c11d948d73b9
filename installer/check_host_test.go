package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"cc-base/installer/doctor"
	"cc-base/tasks/facts"
	"cc-base/tasks/facts/factstest"
	"cc-base/validation/check"
)

func verdicts(t *testing.T, f facts.Facts, o doctor.Options) map[string]check.Verdict {
	t.Helper()
	gathered := 0
	checks := hostChecks(func(context.Context) facts.Facts { gathered++; return f }, o)
	got := map[string]check.Verdict{}
	for _, c := range checks {
		if _, twice := got[c.ID]; twice || c.Title == "" || c.Remedy == "" || c.Area != "host" && c.Area != "gpu" {
			t.Errorf("%+v", c)
		}
		got[c.ID] = c.Func(t.Context())
	}
	if gathered != 1 || len(got) != len(doctor.Checks()) {
		t.Errorf("facts were gathered %d times for %d checks of %d", gathered, len(got), len(doctor.Checks()))
	}
	return got
}

// A recorded host with a GPU whose mode nobody could read, no IOMMU and no free
// disk. What is not known passes no check, and neither does what is not so.
func TestTheDoctorsAnswersAsVerdicts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("doctor/testdata/h100-one.json")
	if err != nil {
		t.Fatal(err)
	}
	var f facts.Facts
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	got := verdicts(t, f, doctor.Options{})
	for id, want := range map[string]struct {
		status check.Status
		detail string
	}{
		"gpu.present":         {check.Pass, "H100"},
		"gpu.cc-mode":         {check.Skip, "0000:00:06.0: its mode is not read"},
		"gpu.devtools":        {check.Skip, "not read"},
		"gpu.iommu-group":     {check.Fail, "no IOMMU is on"},
		"gpu.vfio.pci":        {check.Fail, "no vfio-pci"},
		"gpu.driver":          {check.Fail, "nvidia 580"},
		"gpu.nvswitch":        {check.Skip, "no meaning on this host"},
		"host.disk.free":      {check.Fail, "none of 2 disks"},
		"host.memory.size":    {check.Pass, "GiB"},
		"host.network.bridge": {check.Pass, "note: "},
	} {
		if v := got[id]; v.Status != want.status || !strings.Contains(v.Detail, want.detail) {
			t.Errorf("%s: %+v, want %s with %q", id, v, want.status, want.detail)
		}
	}
	// A host in good order fails nothing; one without a GPU skips what is of GPUs.
	for name, host := range map[string]factstest.Host{"epyc": factstest.EPYC(), "plain": factstest.Plain()} {
		f := facts.Gather(t.Context(), host.World())
		for id, v := range verdicts(t, f, doctor.Options{AllowPlain: name == "plain", AllowSmall: true}) {
			if name == "epyc" && v.Status == check.Fail {
				t.Errorf("%s: %s: %+v", name, id, v)
			}
			if area, _, _ := strings.Cut(id, "."); name == "plain" && area == "gpu" && len(f.NVIDIA) == 0 && v.Status != check.Skip {
				t.Errorf("%s: %s: %+v without a GPU", name, id, v)
			}
		}
	}
}
