// Package facts gathers what can be known of a host that is to run a
// confidential guest: kernel, processor, memory, TEE, IOMMU, GPUs, network,
// disks, firmware and the versions of the programs that are needed.
//
//	f := facts.Gather(ctx, facts.World{Root: os.DirFS("/"), Run: sh.Host{}, Registers: gpu.Sysfs{Root: "/"}})
//
// Gathering never fails and never changes anything: what cannot be read is
// listed in [Facts.Unread]. Judging is left to others, so that facts can be
// saved on one machine as JSON and judged on another.
//
// They are made to be shown to strangers, in a bug report for instance: no
// serial number, UUID, network address, host name or disk label is in them.
package facts

import (
	"context"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"cc-base/tasks/gpu"
	"cc-base/tasks/hw"
	"cc-base/tasks/network"
	"cc-base/tasks/sh"
)

// Schema is the version of the JSON.
const Schema = 1

// World is where the facts come from.
type World struct {
	Root      fs.FS         // the root folder
	Run       sh.Runner     // programs that tell their version, virsh and dmesg; nil runs none
	Registers gpu.Registers // of GPUs; nil reads none
}

// Facts is everything that was found.
type Facts struct {
	Schema      int             `json:"schema"`
	Root        bool            `json:"root"` // they were gathered by root, who sees more
	Kernel      Kernel          `json:"kernel"`
	CPU         CPU             `json:"cpu"`
	Memory      Memory          `json:"memory"`
	TEE         TEE             `json:"tee"`
	IOMMU       IOMMU           `json:"iommu"`
	Passthrough gpu.Passthrough `json:"passthrough"`
	NVIDIA      []gpu.Function  `json:"nvidia"`                 // GPUs, then NVSwitches
	HostDriver  string          `json:"nvidiaDriver,omitempty"` // version of NVIDIA's driver that the host has loaded
	Nouveau     bool            `json:"nouveau,omitempty"`      // the host has loaded nouveau
	Network     network.Facts   `json:"network"`
	Disks       []Disk          `json:"disks"`
	Firmware    []Firmware      `json:"firmware"`
	Programs    []Program       `json:"programs"`
	Security    Security        `json:"security"`
	Unread      []string        `json:"unread,omitempty"` // what could not be read, and why
}

// Disk is a disk as a target, without what identifies it.
type Disk struct {
	Name      string `json:"name"`
	Class     string `json:"class"` // nvme, ssd or hdd
	Size      int64  `json:"size"`  // bytes
	Sector    int64  `json:"sectorSize"`
	Removable bool   `json:"removable,omitempty"`
	Free      bool   `json:"free"` // nothing stands against writing to it
}

// Security is what may keep QEMU from devices and files.
type Security struct {
	SELinux       string `json:"selinux,omitempty"`               // enforcing, permissive or empty
	AppArmor      bool   `json:"apparmor,omitempty"`              // enabled
	LibvirtDriver string `json:"libvirtSecurityDriver,omitempty"` // of qemu.conf, empty for the default
	MemlockSoft   string `json:"memlockSoft,omitempty"`           // bytes or unlimited, of this process
	MemlockHard   string `json:"memlockHard,omitempty"`
}

// UnreadGPUs begins the entry of [Facts.Unread] that says why GPUs could not be
// looked for.
const UnreadGPUs = "GPUs: "

// Gather reads everything.
func Gather(ctx context.Context, w World) Facts {
	r := reader{w.Root}
	f := Facts{Schema: Schema, Root: r.isRoot()}
	f.Kernel = r.kernel(ctx, w.Run)
	f.CPU = r.cpu()
	f.Memory = r.memory()
	f.IOMMU = r.iommu()
	f.Passthrough = gpu.ReadPassthrough(w.Root, f.Kernel.Release)
	f.Programs = programs(ctx, w.Run)
	f.TEE = r.tee(ctx, w.Run, f.Kernel.Log)
	f.Firmware = r.firmware()
	f.Security = r.security()
	f.HostDriver = r.text("sys/module/nvidia/version")
	f.Nouveau = r.exists("sys/module/nouveau")

	unread := func(what string, err error) {
		if err != nil {
			f.Unread = append(f.Unread, what+err.Error())
		}
	}
	var err error
	f.NVIDIA, err = gpu.List(w.Root)
	unread(UnreadGPUs, err)
	if w.Registers != nil {
		gpu.ReadModes(f.NVIDIA, w.Registers)
	}
	f.Network, err = network.Read(w.Root)
	unread("network: ", err)
	f.Network = nameless(f.Network)
	devices, err := hw.Devices(w.Root)
	unread("disks: ", err)
	for _, d := range devices {
		if d.Kind == hw.Disk && d.Size > 0 {
			f.Disks = append(f.Disks, Disk{d.Name, d.Class.String(), d.Size, d.SectorSize, d.Removable, len(hw.Refusals(d, hw.Need{})) == 0})
		}
	}
	return f
}

// The name of a USB network card is its hardware address
// (systemd.net-naming-scheme(7)).
var hardwareName = regexp.MustCompile(`^enx[0-9a-f]{12}$`)

// nameless gives interfaces that are named by their hardware address others.
func nameless(n network.Facts) network.Facts {
	names := map[string]string{}
	for _, i := range n.Interfaces {
		if hardwareName.MatchString(i.Name) {
			names[i.Name] = fmt.Sprintf("enx-%d", len(names))
		}
	}
	rename := func(name *string) {
		if other, ok := names[*name]; ok {
			*name = other
		}
	}
	for i := range n.Interfaces {
		rename(&n.Interfaces[i].Name)
		rename(&n.Interfaces[i].Master)
		for m := range n.Interfaces[i].Members {
			rename(&n.Interfaces[i].Members[m])
		}
	}
	rename(&n.Default)
	return n
}

// reader reads files of the root folder; what is not there is empty.
type reader struct{ root fs.FS }

func (r reader) text(name string) string {
	b, err := fs.ReadFile(r.root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (r reader) exists(name string) bool {
	_, err := fs.Stat(r.root, name)
	return err == nil
}

func (r reader) names(dir string) []string {
	entries, _ := fs.ReadDir(r.root, dir)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// isRoot looks at the effective user, the second number.
func (r reader) isRoot() bool {
	for line := range strings.Lines(r.text("proc/self/status")) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			ids := strings.Fields(rest)
			return len(ids) > 1 && ids[1] == "0"
		}
	}
	return false
}

func (r reader) security() Security {
	var s Security
	switch r.text("sys/fs/selinux/enforce") {
	case "1":
		s.SELinux = "enforcing"
	case "0":
		s.SELinux = "permissive"
	}
	s.AppArmor = r.text("sys/module/apparmor/parameters/enabled") == "Y"
	for line := range strings.Lines(r.text("etc/libvirt/qemu.conf")) {
		if key, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(key) == "security_driver" {
			s.LibvirtDriver = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	for line := range strings.Lines(r.text("proc/self/limits")) {
		if rest, ok := strings.CutPrefix(line, "Max locked memory"); ok {
			if words := strings.Fields(rest); len(words) >= 2 {
				s.MemlockSoft, s.MemlockHard = words[0], words[1]
			}
		}
	}
	return s
}
