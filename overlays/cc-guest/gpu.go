package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path"
	"time"

	"cc-base/overlays/cc-guest/gpustate"
	"cc-base/overlays/cc-guest/internal/gpusetup"
	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/fault"
)

// gpuBound ends a check of the GPU's evidence that does not end: it may ask a
// service far away.
const gpuBound = 5 * time.Minute

// verifier is the program on the application volume that checks the GPU's
// evidence.
const verifier = "bin/gpu-attest"

// loadDriver loads the GPU's driver and then locks the kernel, where the
// command line leaves that to the guest. Whatever became of the driver, the
// kernel is locked, or the machine ends.
func loadDriver(ctx context.Context) error {
	params, err := readParams()
	if err != nil {
		return err
	}
	report, err := gpusetup.Setup{Root: os.DirFS("/"), Run: together}.Load(ctx)
	if err == nil {
		err = gpustate.Write("/", report)
	}
	if params.LateLockdown {
		err = errors.Join(err, gpusetup.Lock("/"))
	}
	if err != nil {
		return fault.New(fault.GuestGPU, err)
	}
	return nil
}

// attestGPU follows the daemon that holds the GPU open.
func attestGPU(ctx context.Context) error {
	s, err := readSettings()
	if err != nil {
		return err
	}
	report, err := gpustate.Read(os.DirFS("/"))
	if err != nil {
		return fault.New(fault.GuestGPU, err)
	}
	setup := gpusetup.Setup{Root: os.DirFS("/"), Run: together, Verifier: path.Join(appMount(s), verifier)}
	if err := gpustate.Write("/", setup.Attest(ctx, report)); err != nil {
		return fault.New(fault.GuestGPU, err)
	}
	return nil
}

// appMount is where the application volume appears.
func appMount(s settings.Settings) string {
	for _, m := range s.Mounts {
		if m.Device == "/dev/mapper/cc-app" {
			return m.Path
		}
	}
	return "/opt/cc"
}

// together runs a program and returns both of its outputs.
func together(ctx context.Context, program string, args ...string) (string, int, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if ctx.Err() == nil && errors.As(err, &exit) && exit.Exited() {
		return string(out), exit.ExitCode(), nil
	}
	return string(out), 0, err
}
