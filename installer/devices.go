package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"cc-base/installer/unpacked"
	"cc-base/tasks/fault"
	"cc-base/tasks/hw"
	"cc-base/tasks/manifest"
)

// listed is a device as list-devices --json writes it.
type listed struct {
	hw.Device
	Target  bool         `json:"target"`
	Reasons []hw.Refusal `json:"reasons,omitempty"`
}

func (a *app) listDevices(o options) error {
	devices, err := hw.Devices(a.root)
	if err != nil {
		return fault.New(fault.NoDevice, err)
	}
	need := a.need(o)
	all := []listed{}
	for _, d := range devices {
		r := hw.Refusals(d, need)
		all = append(all, listed{Device: d, Target: len(r) == 0, Reasons: r})
	}
	if o.json {
		return a.writeJSON(all)
	}
	table := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DEVICE\tCLASS\tSIZE\tMODEL\tTARGET")
	choice := 0
	for _, l := range all {
		if !o.all && (l.Kind == hw.Partition || l.Kind == hw.Memory || l.Size == 0) {
			continue
		}
		verdict := "no: " + sentence(l.Reasons)
		if l.Target {
			choice++
			verdict = fmt.Sprintf("yes, choice %d", choice)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", l.Path, l.Class, human(l.Size), l.Model, verdict)
	}
	return table.Flush()
}

// need is what the folder's image wants of a device; without an installer folder the
// devices are judged by their use alone.
func (a *app) need(o options) hw.Need {
	folder, err := unpacked.Open(o.dir)
	if err != nil {
		return hw.Need{}
	}
	defer folder.Close()
	m, err := folder.Manifest()
	if err != nil {
		return hw.Need{}
	}
	return needs(m.Disk)
}

// needs is what an image wants of a device.
func needs(d manifest.Disk) hw.Need {
	return hw.Need{Size: d.VirtualSize, SectorSize: d.SectorSize, Labels: d.Labels()}
}

func sentence(reasons []hw.Refusal) string {
	var out []string
	for _, r := range reasons {
		out = append(out, r.Detail)
	}
	return strings.Join(out, "; ")
}

// human writes a size as disks are sold: in powers of ten.
func human(bytes int64) string {
	size, units := float64(bytes), []string{"B", "kB", "MB", "GB", "TB", "PB"}
	for len(units) > 1 && size >= 1000 {
		size, units = size/1000, units[1:]
	}
	if units[0] == "B" {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", size, units[0])
}

func (a *app) writeJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
