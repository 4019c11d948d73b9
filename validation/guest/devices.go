package guest

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"cc-base/overlays/cc-guest/gpustate"
	"cc-base/validation/check"
)

func (e Env) devices() []check.Check {
	return []check.Check{
		one("attestation.device", "the processor vouches for the guest", "start the VM as a confidential one, on a host that has SEV-SNP or TDX", e.attestation),
		one("gpu.assigned", "an NVIDIA GPU is there, with its driver", "assign the GPU to the VM; `cc-install doctor` on the host tells what is in the way", e.gpu),
		one("gpu.state", "the GPU was attested and is ready for work", "set the GPU to confidential mode on the host, and build the image with a driver and a verifier (docs/gpu.md)", e.gpuState),
	}
}

// attestation looks for the device that reports come from
// (Documentation/virt/coco).
func (e Env) attestation(context.Context) check.Verdict {
	for _, device := range []string{"sev-guest", "tdx_guest"} {
		if _, err := fs.Stat(e.Root, "dev/"+device); err == nil {
			return check.Passed("/dev/%s", device)
		}
	}
	if p := e.profile(); p != "tpm" {
		return check.Failed("key profile %s, and there is no device to ask", p)
	}
	return check.Skipped("a plain machine: nothing vouches for it, and its host can read its memory")
}

func (e Env) gpu(context.Context) check.Verdict {
	vendors, err := fs.Glob(e.Root, "sys/bus/pci/devices/*/vendor")
	if err != nil {
		return check.Broken(err)
	}
	var found, findings []string
	for _, v := range vendors {
		dir := path.Dir(v)
		vendor, err := e.text(v)
		if err != nil || vendor != "0x10de" {
			continue
		}
		class, _ := e.text(dir + "/class")
		if !strings.HasPrefix(class, "0x03") {
			continue // a bridge or an NVSwitch
		}
		address := path.Base(dir)
		found = append(found, address)
		if driver, err := fs.ReadLink(e.Root, dir+"/driver"); err != nil || path.Base(driver) != "nvidia" {
			findings = append(findings, address+" has no driver")
		}
	}
	if len(found) == 0 {
		return check.Skipped("no GPU")
	}
	return check.Judge(findings, "%s", strings.Join(found, ", "))
}

// gpuState is what cc-guest came to at the end of the boot. In a plain machine a
// GPU without confidential mode is no worse than the rest of it.
func (e Env) gpuState(context.Context) check.Verdict {
	r, err := gpustate.Read(e.Root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return check.Failed("the boot has not told")
	case err != nil:
		return check.Broken(err)
	case r.State == gpustate.Ready:
		return check.Passed("%s", r)
	case r.State == gpustate.None:
		return check.Skipped("%s", r)
	case r.State == gpustate.Off && e.profile() == "tpm":
		return check.Skipped("a plain machine: %s", r)
	}
	return check.Failed("%s", r)
}
