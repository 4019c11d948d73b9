package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cc-base/installer/doctor"
	"cc-base/installer/settings"
	"cc-base/tasks/facts"
	"cc-base/tasks/fault"
	"cc-base/tasks/gpu"
	"cc-base/tasks/network"
)

const detectUsage = `  cc-install detect [--dry-run] [--root DIR] [--json]
                 write gpu_settings and network_settings below DIR/etc/cc/qemu
                 (DIR is / by default) from what this host has; lines that are
                 there stay. --dry-run prints the files and writes nothing
`

// detected is what detect --json writes.
type detected struct {
	settings.Change
	GPUs   []doctor.GPU `json:"gpus,omitempty"` // of the host, NVSwitches after them
	Plan   gpu.Plan     `json:"plan"`           // for the chosen ones
	Unread []string     `json:"unread,omitempty"`
}

// detect writes the settings files, or shows them. The host is looked at
// through world; o.root is only where the files are.
func (a *app) detect(world facts.World, o options) error {
	root := o.root
	if root == "" {
		root = "/"
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return fault.New(fault.Usage, err)
	}
	if info, err := os.Stat(root); err != nil || !info.IsDir() {
		return fault.Newf(fault.Usage, "--root: %s is not a folder", root)
	}
	var d detected
	unread := func(what string, err error) {
		if err != nil {
			d.Unread = append(d.Unread, fmt.Sprintf("%s: %s", what, err))
		}
	}
	functions, err := gpu.List(world.Root)
	unread("GPUs", err)
	gpu.ReadModes(functions, world.Registers)
	net, err := network.Read(world.Root)
	unread("network", err)
	for _, u := range d.Unread {
		a.say("warning: not read: %s", u)
	}

	if d.Change, err = settings.Detect(functions, net).Against(os.DirFS(root), root, functions, net); err != nil {
		return err
	}
	chosen, err := d.Settings.GPU.Chosen(functions)
	if err != nil {
		return err
	}
	release := facts.Release(world.Root)
	d.Plan = gpu.PlanFor(chosen, functions, gpu.ReadPassthrough(world.Root, release))
	d.GPUs = doctor.ShowGPUs(functions)
	if !o.dryRun {
		if err := d.Write(); err != nil {
			return fault.New(fault.HostSettings, err).Hint("run it as root; --dry-run prints the files and writes nothing")
		}
	}
	if o.json {
		return a.writeJSON(d)
	}
	return a.showDetected(d, o.dryRun)
}

func (a *app) showDetected(d detected, dryRun bool) error {
	if err := doctor.WriteGPUs(a.out, d.GPUs); err != nil {
		return err
	}
	if p := d.Plan; len(p.Functions) > 0 {
		fmt.Fprintf(a.out, "passthrough of %s: PCI window %d MiB\n", strings.Join(p.Functions, " "), p.ApertureMiB)
		if p.DMAEntryLimit > 0 {
			fmt.Fprintf(a.out, "  vfio_iommu_type1.dma_entry_limit must be %d\n", p.DMAEntryLimit)
		}
		for _, problem := range p.Problems {
			fmt.Fprintf(a.out, "  not yet: %s\n", problem)
		}
		fmt.Fprintln(a.out)
	}
	verbs := map[settings.State]string{settings.New: "written", settings.Extended: "extended by", settings.Kept: "kept as it is"}
	if dryRun {
		verbs[settings.New], verbs[settings.Extended] = "would be written", "would be extended by"
	}
	for _, f := range d.Files {
		line := fmt.Sprintf("%s: %s", f.Path, verbs[f.State])
		if f.State == settings.Extended {
			line += " " + strings.Join(f.Added, ", ")
		}
		fmt.Fprintln(a.out, line)
		if dryRun && f.State != settings.Kept {
			fmt.Fprintf(a.out, "    %s\n", strings.ReplaceAll(strings.TrimRight(f.Text, "\n"), "\n", "\n    "))
		}
	}
	return nil
}
