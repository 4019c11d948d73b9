package choose_test

// What green does not prove: the machines are written by hand after real
// ones, they are not recordings, and their disks hold headers only. That the
// chosen disk is also the one that is written is shown with loop devices in
// the tests of cc-install.

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/choose"
	"cc-base/tasks/golden"
	"cc-base/tasks/hw"
	"cc-base/tasks/hw/hwtest"
)

func environment(text string) func(string) string {
	values := map[string]string{}
	for _, pair := range strings.Fields(text) {
		name, value, _ := strings.Cut(pair, "=")
		values[name] = value
	}
	return func(name string) string { return values[name] }
}

// Every machine: which disk is chosen and why, and of every device each
// reason. The sentences are in the golden file.
func TestMachines(t *testing.T) {
	t.Parallel()
	var sentences strings.Builder
	met := map[hw.Reason]bool{}
	for _, f := range fixtures() {
		wish, err := choose.FromEnv(environment(f.env))
		if f.env == "" {
			wish, err = choose.FromEnv(environment("AUTO_SELECT=true"))
		}
		if err != nil || !wish.Auto {
			t.Fatalf("%s: %+v, error %v", f.name, wish, err)
		}
		devices, err := hw.Devices(f.host)
		if err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		c := choose.Among(devices, hw.Need{Size: 8 * hwtest.GiB, SectorSize: 512, Labels: labels()}, wish)
		fmt.Fprintf(&sentences, "# %s\n", f.name)
		var got, named []string
		for _, d := range c.Candidates {
			var reasons []string
			for _, r := range hw.Refused(d.Verdicts) {
				reasons = append(reasons, string(r.Reason))
				met[r.Reason] = true
				fmt.Fprintf(&sentences, "%s: %s\n", d.Path, r)
			}
			if d.Free() != (len(reasons) == 0) {
				t.Errorf("%s: %s is free: %v, with %v against it", f.name, d.Name, d.Free(), reasons)
			}
			if !d.Free() && len(hw.Refusals(d.Device, hw.Need{Size: 8 * hwtest.GiB, SectorSize: 512, Named: true})) == 0 {
				named = append(named, d.Name)
			}
			got = append(got, strings.TrimSpace(d.Name+" "+d.Class.String()+" "+strings.Join(reasons, ",")))
		}
		if diff := cmp.Diff(f.devices, got); diff != "" {
			t.Errorf("%s: devices (-want +got):\n%s", f.name, diff)
		}
		if diff := cmp.Diff(f.named, strings.Join(named, " ")); diff != "" {
			t.Errorf("%s: free if named (-want +got):\n%s", f.name, diff)
		}
		if c.Device.Name != f.choice || c.Free != (f.choice != "") {
			t.Errorf("%s: the choice is %q, want %q", f.name, c.Device.Name, f.choice)
		}
		if diff := cmp.Diff(f.reasons, c.Reasons); diff != "" {
			t.Errorf("%s: reasons (-want +got):\n%s", f.name, diff)
		}
	}
	golden.Compare(t, "machines", sentences.String())

	// Files and what only an open tells are met elsewhere.
	for _, v := range hw.Judge(hw.Device{}, hw.Need{}) {
		if !met[v.Rule] && v.Rule != hw.NotABlock {
			t.Errorf("no machine is refused for %s", v.Rule)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		env  string
		want choose.Preference
		err  string
	}{
		{"", choose.Preference{}, ""},
		{"AUTO_SELECT=", choose.Preference{}, ""},
		{"AUTO_SELECT=true", choose.Preference{Auto: true}, ""},
		{"AUTO_SELECT=1", choose.Preference{Auto: true}, ""},
		{"AUTO_SELECT=false PREFER_NVME=0 PREFER_SSD=false DEBUG=0", choose.Preference{}, ""},
		{"PREFER_SSD=true", choose.Preference{Auto: true, First: []hw.Class{hw.SSD}}, ""},
		{"PREFER_NVME=1", choose.Preference{Auto: true, First: []hw.Class{hw.NVMe}}, ""},
		{"PREFER_SSD=true PREFER_NVME=true", choose.Preference{Auto: true, First: []hw.Class{hw.NVMe, hw.SSD}}, ""},
		{"DEBUG=true", choose.Preference{Debug: true}, ""},
		{"AUTO_SELECT=yes", choose.Preference{}, `AUTO_SELECT is "yes"; it may be true, false, 1 or 0`},
		{"PREFER_NVME=TRUE PREFER_SSD=2 DEBUG=x", choose.Preference{},
			"PREFER_NVME is \"TRUE\"; it may be true, false, 1 or 0\nPREFER_SSD is \"2\"; it may be true, false, 1 or 0\nDEBUG is \"x\"; it may be true, false, 1 or 0"},
		{"AUTO_SELECT=false PREFER_NVME=true PREFER_SSD=1", choose.Preference{Auto: true, First: []hw.Class{hw.NVMe, hw.SSD}},
			"AUTO_SELECT is false, which contradicts PREFER_NVME and PREFER_SSD"},
	} {
		got, err := choose.FromEnv(environment(test.env))
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.env, diff)
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		if diff := cmp.Diff(test.err, text); diff != "" {
			t.Errorf("%s: error (-want +got):\n%s", test.env, diff)
		}
	}
}
