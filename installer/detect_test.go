package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/installer/settings"
	"cc-base/tasks/facts/factstest"
	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"
)

// What green does not prove: the host is made by hand; the files are written
// below a temporary folder, never below /etc.

func TestDetectWritesOnceAndKeepsEdits(t *testing.T) {
	t.Parallel()
	h, dir := factstest.EPYC(), t.TempDir()
	run := func(o options) (string, error) {
		a, out := inProcess(h.Tree, "", false)
		o.root = dir
		err := a.detect(h.World(), o)
		return out.String(), err
	}
	out, err := run(options{dryRun: true})
	if err != nil || !strings.Contains(out, "gpu_settings: would be written") || !strings.Contains(out, `    NVIDIA_GPU_INDEX="0"`) || !strings.Contains(out, "PCI window 262144 MiB") {
		t.Errorf("%v\n%s", err, out)
	}
	filetest.Only(t, dir)
	if out, err = run(options{}); err != nil || !strings.Contains(out, "network_settings: written") {
		t.Errorf("%v\n%s", err, out)
	}
	file := filepath.Join(dir, settings.GPUFile)
	text := string(filetest.Read(t, file))
	if !strings.Contains(text, `NVIDIA_GPU_ADDRESS="`+factstest.GPU0+`"`) {
		t.Errorf("%s", text)
	}
	// Another GPU is chosen, and the address is forgotten.
	filetest.Write(t, file, []byte(strings.Replace(text, `INDEX="0"`, `INDEX="1"`, 1)))
	out, err = run(options{})
	if fault.Exit(err) != fault.ExitUsage || !strings.Contains(err.Error(), file+":12:1: NVIDIA_GPU_ADDRESS: it is "+factstest.GPU0) {
		t.Errorf("%v\n%s", err, out)
	}
	filetest.Write(t, file, []byte(strings.NewReplacer(`INDEX="0"`, `INDEX="all"`, factstest.GPU0, factstest.GPU1+" "+factstest.GPU0).Replace(text)))
	out, err = run(options{json: true})
	var d detected
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatal(err)
	}
	if err != nil || d.Settings.GPU.Index != "all" || len(d.Plan.Functions) != 2 || d.Files[0].State != settings.Kept || d.GPUs[0].Mode != "on" {
		t.Errorf("%v: %+v", err, d)
	}
}

func TestDetectOnAHostThatShowsNothing(t *testing.T) {
	t.Parallel()
	h, dir := factstest.Plain(), t.TempDir()
	h.Remove("sys/bus")
	h.Remove("sys/class/net")
	a, out := inProcess(h.Tree, "", false)
	if err := a.detect(h.World(), options{root: dir}); err != nil {
		t.Fatal(err)
	}
	if text := string(filetest.Read(t, filepath.Join(dir, settings.NetworkFile))); !strings.Contains(text, `NETWORK_TYPE="nat"`) {
		t.Errorf("%s", text)
	}
	if !strings.Contains(out.String(), "warning: not read: GPUs") || !strings.Contains(out.String(), "warning: not read: network") {
		t.Errorf("%s", out)
	}
}

func TestDetectSaysWhatStandsAgainstPassingTheGPU(t *testing.T) {
	t.Parallel()
	h := factstest.EPYC()
	h.Remove("dev/iommu")
	h.Remove("sys/kernel/iommu_groups")
	h.Remove("sys/bus/pci/devices/" + factstest.GPU0 + "/iommu_group")
	a, out := inProcess(h.Tree, "", false)
	if err := a.detect(h.World(), options{root: t.TempDir(), dryRun: true}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"IOMMU group  none: the kernel has no IOMMU groups", "dma_entry_limit must be 1048576", "not yet: " + factstest.GPU0} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, out)
		}
	}
}

func TestDetectRefusesARootThatIsNoFolder(t *testing.T) {
	t.Parallel()
	h := factstest.Plain()
	file := filetest.Write(t, filepath.Join(t.TempDir(), "file"), nil)
	for _, root := range []string{file, file + "/none"} {
		a, _ := inProcess(h.Tree, "", false)
		if err := a.detect(h.World(), options{root: root}); fault.Exit(err) != fault.ExitUsage {
			t.Errorf("%s: %v", root, err)
		}
	}
}

func TestDetectCannotWrite(t *testing.T) {
	t.Parallel()
	h, dir := factstest.Plain(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "etc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a, _ := inProcess(h.Tree, "", false)
	if err := a.detect(h.World(), options{root: dir}); fault.Exit(err) != fault.ExitUsage || !strings.Contains(fault.Render(err), "CC0722") {
		t.Errorf("%v", err)
	}
}
