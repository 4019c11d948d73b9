package main

import (
	"context"
	"os"

	"cc-base/installer/doctor"
	"cc-base/tasks/facts"
	"cc-base/tasks/fault"
	"cc-base/tasks/gpu"
	"cc-base/tasks/sh"
)

const doctorUsage = `  cc-install doctor [--json | --facts] [--allow-plain] [--allow-small]
                 what keeps this host from running a confidential VM with its
                 GPUs, and what to do; changes nothing. --facts prints what it
                 judges, without serial numbers and addresses
`

// world is where facts of this machine come from.
func (a *app) world() facts.World {
	return facts.World{Root: a.root, Run: sh.Host{}, Registers: gpu.Sysfs{Root: string(os.PathSeparator)}}
}

// doctor judges this host. The exit status is that of the worst finding.
func (a *app) doctor(ctx context.Context, world facts.World, o options) error {
	if o.json && o.facts {
		return fault.Newf(fault.Usage, "--json is the report and --facts is what it judges: give one of them")
	}
	found := facts.Gather(ctx, world)
	if o.facts {
		return a.writeJSON(found)
	}
	report := doctor.Examine(found, doctor.Options{AllowPlain: o.allowPlain, AllowSmall: o.allowSmall})
	var err error
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
