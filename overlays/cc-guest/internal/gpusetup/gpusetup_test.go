package gpusetup_test

// What green does not prove: no GPU, no driver and no nvidia-smi takes part. What
// nvidia-smi prints was recorded from an H100 with confidential computing off
// (driver 580.159.04); the lines for a GPU where it is on differ from them in the
// one word.

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/overlays/cc-guest/gpustate"
	"cc-base/overlays/cc-guest/internal/gpusetup"
	"cc-base/tasks/gpu/gputest"
)

const (
	address  = "0000:01:00.0"
	verifier = "/opt/cc/bin/gpu-attest"
)

// answer is what a program prints and its exit status.
type answer struct {
	out    string
	status int
	err    error
}

// machine is a guest with the programs' answers, and the order of their calls.
type machine struct {
	tree    gputest.Tree
	answers map[string]answer
	calls   []string
}

// confidential is a machine with an H100 in which everything is as it should be.
func confidential() *machine {
	m := &machine{tree: gputest.New().Add(address, gputest.Device{ID: 0x2330}), answers: map[string]answer{
		"modprobe nvidia": {}, "modprobe nvidia-uvm": {},
		"nvidia-smi conf-compute -f":     {out: "CC status: ON\n"},
		"nvidia-smi conf-compute -d":     {out: "DevTools Mode: OFF\n"},
		"nvidia-smi conf-compute -srs 1": {},
		"nvidia-smi conf-compute -grs":   {out: "\nConfidential Compute GPUs Ready state: ready\n\n"},
		"gpu-attest":                     {out: "ok\n"},
	}}
	m.tree.Put(strings.TrimPrefix(gpusetup.DescriptionPath, "/"), "{}")
	m.tree.Put(strings.TrimPrefix(verifier, "/"), "#!")
	return m
}

func (m *machine) run(_ context.Context, program string, args ...string) (string, int, error) {
	call := strings.Join(append([]string{filepath.Base(program)}, args...), " ")
	m.calls = append(m.calls, call)
	a, ok := m.answers[call]
	if !ok {
		return "", 0, errors.New("not expected")
	}
	return a.out, a.status, a.err
}

func (m *machine) boot(t *testing.T) gpustate.Report {
	t.Helper()
	s := gpusetup.Setup{Root: m.tree, Run: m.run, Verifier: verifier}
	r, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Attest(t.Context(), r)
}

func TestAGPUIsSetReadyAfterItsEvidenceWasChecked(t *testing.T) {
	t.Parallel()
	m := confidential()
	want := gpustate.Report{State: gpustate.Ready, GPUs: []string{"NVIDIA H100 SXM5 80GB at " + address}}
	if diff := cmp.Diff(want, m.boot(t)); diff != "" {
		t.Error(diff)
	}
	order := []string{
		"modprobe nvidia", "modprobe nvidia-uvm", "nvidia-smi conf-compute -d", "nvidia-smi conf-compute -f",
		"gpu-attest", "nvidia-smi conf-compute -srs 1", "nvidia-smi conf-compute -grs",
	}
	if diff := cmp.Diff(order, m.calls); diff != "" {
		t.Error(diff)
	}
}

func TestAGPUThatIsNotTrustedIsNeverSetReady(t *testing.T) {
	t.Parallel()
	says := func(call, out string) func(*machine) {
		return func(m *machine) { m.answers[call] = answer{out: out} }
	}
	ends := func(call, out string, status int) func(*machine) {
		return func(m *machine) { m.answers[call] = answer{out: out, status: status} }
	}
	for name, tc := range map[string]struct {
		change func(*machine)
		state  gpustate.State
		detail string
		may    bool // be told to take work
	}{
		"no GPU":               {func(m *machine) { m.tree = gputest.New() }, gpustate.None, "", false},
		"no driver":            {func(m *machine) { delete(m.tree.MapFS, gpusetup.DescriptionPath[1:]) }, gpustate.NoDriver, "", false},
		"a module of no trust": {ends("modprobe nvidia", "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service\n", 1), gpustate.Failed, "modprobe nvidia ends with status 1: modprobe: ERROR: could not insert 'nvidia': Key was rejected by service", false},
		"no second module":     {ends("modprobe nvidia-uvm", "a\nb\n", 1), gpustate.Failed, "status 1: b", false},
		"off":                  {says("nvidia-smi conf-compute -f", "CC status: OFF\n"), gpustate.Off, "", false},
		"an unknown mode":      {says("nvidia-smi conf-compute -f", "CC status: \n"), gpustate.Off, "", false},
		"no answer":            {says("nvidia-smi conf-compute -f", "No devices were found\n"), gpustate.Failed, `does not say "CC status"`, false},
		"devtools":             {says("nvidia-smi conf-compute -d", "DevTools Mode: ON\n"), gpustate.Devtools, "", false},
		"smi fails":            {ends("nvidia-smi conf-compute -d", "Failed to initialize NVML: Unknown Error\n", 255), gpustate.Failed, "status 255: Failed to initialize NVML", false},
		"smi is not there":     {func(m *machine) { m.answers["nvidia-smi conf-compute -d"] = answer{err: os.ErrNotExist} }, gpustate.Failed, "file does not exist", false},
		"no verifier":          {func(m *machine) { delete(m.tree.MapFS, verifier[1:]) }, gpustate.Unattested, "", false},
		"bad evidence":         {ends("gpu-attest", "measurement 7 differs\n", 2), gpustate.Refused, "gpu-attest ends with status 2: measurement 7 differs", false},
		"a verifier that is killed": {func(m *machine) { m.answers["gpu-attest"] = answer{err: errors.New("signal: killed")} },
			gpustate.Refused, "signal: killed", false},
		"it does not take it": {says("nvidia-smi conf-compute -grs", "Confidential Compute GPUs Ready state: not-ready\n"), gpustate.Failed, "says not-ready", true},
		"setting fails":       {ends("nvidia-smi conf-compute -srs 1", "Insufficient Permissions", 4), gpustate.Failed, "Insufficient Permissions", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := confidential()
			tc.change(m)
			r := m.boot(t)
			if r.State != tc.state || !strings.Contains(r.Detail, tc.detail) || strings.Contains(r.Detail, "\n") {
				t.Errorf("got %+v, want %s with %q", r, tc.state, tc.detail)
			}
			if told := strings.Contains(strings.Join(m.calls, "\n"), "-srs"); told != tc.may {
				t.Errorf("it was set ready: %v; calls %q", told, m.calls)
			}
		})
	}
}

func TestAMachineWithoutABusIsAnError(t *testing.T) {
	t.Parallel()
	if r, err := (gpusetup.Setup{Root: os.DirFS(t.TempDir())}).Load(t.Context()); err == nil {
		t.Errorf("got %+v", r)
	}
}

// kernel is a sysfs with the two switches.
func kernel(t *testing.T, mode string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{"sys/module/module/parameters/sig_enforce": "N\n", "sys/kernel/security/lockdown": mode} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestLockWritesToBothSwitchesOnce(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{
		"[none] integrity confidentiality": "integrity", "none [integrity] confidentiality": "none [integrity]", "none integrity [confidentiality]": "none integrity [confidentiality]",
	} {
		root := kernel(t, mode)
		if err := gpusetup.Lock(root); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"sys/module/module/parameters/sig_enforce": "Y", "sys/kernel/security/lockdown": want} {
			got, err := os.ReadFile(filepath.Join(root, name))
			if err != nil || !strings.HasPrefix(string(got), want) {
				t.Errorf("%s: %s is %q, %v", mode, name, got, err)
			}
		}
	}
	for _, name := range []string{"sys/module/module/parameters/sig_enforce", "sys/kernel/security/lockdown"} {
		root := kernel(t, "[none] integrity confidentiality")
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		if err := gpusetup.Lock(root); err == nil {
			t.Errorf("without %s it is called locked", name)
		}
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}
}
