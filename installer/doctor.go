package main

import (
	"bytes"
	"context"
	"os"
	"slices"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"cc-base/installer/doctor"
	"cc-base/installer/unpacked"
	"cc-base/tasks/conf"
	"cc-base/tasks/facts"
	"cc-base/tasks/fault"
	"cc-base/tasks/gpu"
)

const doctorUsage = `  cc-install doctor [--json | --facts] [--from FILE] [--allow-plain] [--allow-small]
                 what keeps this host from running a confidential VM with its
                 GPUs, and what to do; changes nothing. --facts prints what it
                 judges, without serial numbers and addresses; --from judges
                 the facts of another host
`

// world is where facts of this machine come from.
func (a *app) world() facts.World {
	return facts.World{Root: a.root, Run: a.programs, Registers: gpu.Sysfs{Root: string(os.PathSeparator)}}
}

// doctor judges this host. The exit status is that of the worst finding.
func (a *app) doctor(ctx context.Context, world facts.World, o options) error {
	if o.json && o.facts {
		return fault.Newf(fault.Usage, "--json is the report and --facts is what it judges: give one of them")
	}
	found, err := gather(ctx, world, o.from)
	if err != nil {
		return err
	}
	if o.facts {
		return a.writeJSON(found)
	}
	judgeFor := imageOptions(o.dir)
	judgeFor.AllowPlain, judgeFor.AllowSmall = o.allowPlain, o.allowSmall
	report := doctor.Examine(found, judgeFor)
	if o.json {
		err = report.JSON(a.out)
	} else {
		err = report.Text(a.out)
	}
	switch {
	case err != nil:
		return err
	case report.Unsupported:
		return told(fault.HostUnsupported)
	case report.Failed():
		return told(fault.HostUnfit)
	}
	return nil
}

// gather returns the facts of this host, or those in the file.
func gather(ctx context.Context, world facts.World, file string) (facts.Facts, error) {
	if file == "" {
		return facts.Gather(ctx, world), nil
	}
	f, err := facts.Read(file)
	if err != nil {
		return f, fault.Newf(fault.Usage, "--from: %w", err)
	}
	return f, nil
}

// imageOptions is what the installer folder tells of the guest. Without a
// folder, or without one of its files, the host is judged by itself: whether
// the folder is whole is not the doctor's question.
func imageOptions(dir string) doctor.Options {
	var o doctor.Options
	folder, err := unpacked.Open(dir)
	if err != nil {
		return o
	}
	defer folder.Close()
	if m, err := folder.Manifest(); err == nil {
		o.CommandLine = m.CommandLine
	}
	if raw, err := folder.Read("sbom.cdx.json", 64<<20); err == nil {
		o.GuestDriver = driverIn(raw)
	}
	if c, err := conf.Load(conf.Options{Dir: folder.Path("config")}); err == nil {
		o.GuestMiB = int(c.TEE.MemorySize >> 20)
	}
	return o
}

// driverIn returns the version of NVIDIA's driver in a bill of materials, by
// the packages of Debian that have the driver's own version; empty for an image
// without the driver.
func driverIn(bill []byte) string {
	bom := cdx.NewBOM()
	if cdx.NewBOMDecoder(bytes.NewReader(bill), cdx.BOMFileFormatJSON).Decode(bom) != nil || bom.Components == nil {
		return ""
	}
	for _, c := range *bom.Components {
		if slices.Contains([]string{"nvidia-open-kernel-dkms", "nvidia-open-kernel-source", "firmware-nvidia-gsp", "libcuda1"}, c.Name) {
			return c.Version
		}
	}
	return ""
}
