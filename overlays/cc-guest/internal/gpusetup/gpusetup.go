// Package gpusetup brings the machine's GPU as far as its evidence allows:
// driver, mode, attestation, and only then the state in which it takes work.
//
// The order is NVIDIA's: in confidential mode a GPU can be initialised once
// after a reset, so nvidia-persistenced must hold it open before any other
// client asks for it and ends, and it must not be told to take work before its
// evidence was checked. [Setup.Load] comes before the daemon, [Setup.Attest]
// after it.
//
// No GPU, or one that is not trusted, is a state and not a failure: a machine
// that must not go on without one has a workload that asks for
// gpustate.ReadyPath.
package gpusetup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"cc-base/overlays/cc-guest/gpustate"
	"cc-base/tasks/gpu"
)

const (
	// DescriptionPath is what the build says of the driver in the image; an
	// image without one has no such file.
	DescriptionPath = "/usr/lib/cc/driver.json"
	modprobe        = "/usr/sbin/modprobe"
	smi             = "/usr/bin/nvidia-smi"
)

// Setup is the outside world.
type Setup struct {
	Root fs.FS // the root folder, with /sys and /usr
	// Run runs a program and returns what it prints, both outputs together.
	Run func(ctx context.Context, program string, args ...string) (output string, status int, err error)
	// Verifier is the program that checks the GPU's evidence, from the
	// application volume; see docs/gpu.md.
	Verifier string
}

// modules are loaded in this order; the others that a display needs are not in
// the image. CUDA wants the second.
func modules() []string { return []string{"nvidia", "nvidia-uvm"} }

// Load loads the driver where there is a GPU and a driver for it.
func (s Setup) Load(ctx context.Context) (gpustate.Report, error) {
	functions, err := gpu.List(s.Root)
	if err != nil {
		return gpustate.Report{}, err
	}
	r := gpustate.Report{State: gpustate.None}
	for _, f := range gpu.Of(gpu.GPU, functions) {
		r.GPUs = append(r.GPUs, f.Model.String()+" at "+f.Address)
	}
	if len(r.GPUs) == 0 {
		return r, nil
	}
	if _, err := fs.Stat(s.Root, DescriptionPath[1:]); err != nil {
		r.State = gpustate.NoDriver
		return r, nil
	}
	for _, m := range modules() {
		if _, err := s.output(ctx, modprobe, m); err != nil {
			r.State, r.Detail = gpustate.Failed, err.Error()
			return r, nil
		}
	}
	r.State = gpustate.Loaded
	return r, nil
}

// Attest asks the driver for the GPU's mode, has its evidence checked, and sets
// it ready when that is good. It begins with what Load returned.
func (s Setup) Attest(ctx context.Context, r gpustate.Report) gpustate.Report {
	if r.State != gpustate.Loaded {
		return r
	}
	r.State, r.Detail = s.attest(ctx)
	return r
}

func (s Setup) attest(ctx context.Context) (gpustate.State, string) {
	// In devtools mode the feature may be said to be on.
	devtools, err := s.ask(ctx, "-d", "DevTools Mode")
	if err != nil {
		return gpustate.Failed, err.Error()
	}
	if devtools != "OFF" {
		return gpustate.Devtools, ""
	}
	mode, err := s.ask(ctx, "-f", "CC status")
	if err != nil {
		return gpustate.Failed, err.Error()
	}
	if mode != "ON" {
		return gpustate.Off, ""
	}
	if _, err := fs.Stat(s.Root, strings.TrimPrefix(s.Verifier, "/")); errors.Is(err, fs.ErrNotExist) {
		return gpustate.Unattested, ""
	}
	if _, err := s.output(ctx, s.Verifier); err != nil {
		return gpustate.Refused, err.Error()
	}
	if _, err := s.output(ctx, smi, "conf-compute", "-srs", "1"); err != nil {
		return gpustate.Failed, err.Error()
	}
	ready, err := s.ask(ctx, "-grs", "Confidential Compute GPUs Ready state")
	if err != nil {
		return gpustate.Failed, err.Error()
	}
	if ready != "ready" {
		return gpustate.Failed, "it was set ready and says " + ready
	}
	return gpustate.Ready, ""
}

// ask returns the one value that nvidia-smi prints for the option, behind the
// label: "CC status: ON".
func (s Setup) ask(ctx context.Context, option, label string) (string, error) {
	out, err := s.output(ctx, smi, "conf-compute", option)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == label {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("nvidia-smi conf-compute %s does not say %q", option, label)
}

// output runs a program that must succeed. Its error ends with the last line
// that the program printed.
func (s Setup) output(ctx context.Context, program string, args ...string) (string, error) {
	out, status, err := s.Run(ctx, program, args...)
	if err == nil && status == 0 {
		return out, nil
	}
	command := strings.Join(append([]string{program[strings.LastIndex(program, "/")+1:]}, args...), " ")
	if err != nil {
		return "", fmt.Errorf("%s: %w", command, err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return "", fmt.Errorf("%s ends with status %d: %s", command, status, strings.TrimSpace(lines[len(lines)-1]))
}
