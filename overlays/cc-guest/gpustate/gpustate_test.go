package gpustate_test

// What green does not prove: that the state is the GPU's. It is what cc-guest
// was told by the driver.

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/overlays/cc-guest/gpustate"
)

func TestTheReadyMarkIsThereWithThatStateOnly(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, state := range []gpustate.State{gpustate.Loaded, gpustate.Ready, gpustate.Ready, gpustate.Off, gpustate.None} {
		want := gpustate.Report{State: state, GPUs: []string{"NVIDIA H100 PCIe at 0000:01:00.0"}}
		if err := gpustate.Write(root, want); err != nil {
			t.Fatal(err)
		}
		got, err := gpustate.Read(os.DirFS(root))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
		if _, err := os.Stat(filepath.Join(root, gpustate.ReadyPath)); (err == nil) != (state == gpustate.Ready) {
			t.Errorf("%s: %v", state, err)
		}
	}
}

func TestAStateThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if _, err := gpustate.Read(os.DirFS(root)); err == nil {
		t.Error("no file")
	}
	file := filepath.Join(root, gpustate.Path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := gpustate.Read(os.DirFS(root)); err == nil || !strings.Contains(err.Error(), gpustate.Path) {
		t.Errorf("half a file: %v", err)
	}
}

func TestTheConsoleSaysWhatTheStateIsWorth(t *testing.T) {
	t.Parallel()
	one := []string{"NVIDIA H100 PCIe at 0000:01:00.0"}
	for want, r := range map[string]gpustate.Report{
		"cc-base: GPU: no GPU": {State: gpustate.None},
		"cc-base: GPU: NVIDIA H100 PCIe at 0000:01:00.0: attested and ready":                                                       {State: gpustate.Ready, GPUs: one},
		"cc-base: GPU: NVIDIA H100 PCIe at 0000:01:00.0: the driver does not work: modprobe nvidia ends with status 1: x":          {State: gpustate.Failed, GPUs: one, Detail: "modprobe nvidia ends with status 1: x"},
		"cc-base: GPU: NVIDIA H100 PCIe at 0000:01:00.0: DEVTOOLS MODE: it is open to debuggers and passes no attestation":         {State: gpustate.Devtools, GPUs: one},
		"cc-base: GPU: NVIDIA H100 PCIe at 0000:01:00.0: confidential computing is off: the host can read what it computes":        {State: gpustate.Off, GPUs: one},
		"cc-base: GPU: NVIDIA H100 PCIe at 0000:01:00.0: not attested: nothing in this image checks its evidence":                  {State: gpustate.Unattested, GPUs: one},
		"cc-base: GPU: NVIDIA H100 PCIe at 0000:01:00.0: no driver in this image":                                                  {State: gpustate.NoDriver, GPUs: one},
		"cc-base: GPU: NVIDIA H100 PCIe at 0000:01:00.0: its evidence is not good: it gets no work: gpu-attest ends with status 2": {State: gpustate.Refused, GPUs: one, Detail: "gpu-attest ends with status 2"},
	} {
		if got := r.Line(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
