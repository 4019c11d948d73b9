// Package factstest makes hosts that are in good order, for tests that spoil
// them one fact at a time.
//
// They are written by hand after documentation, drivers and listings of such
// hosts; they are no recordings. A real host has much more in its sysfs.
package factstest

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing/fstest"

	"cc-base/tasks/facts"
	"cc-base/tasks/gpu/gputest"
	"cc-base/tasks/hw/hwtest"
	"cc-base/tasks/sh"
)

// Addresses of the hosts' GPUs.
const (
	GPU0 = "0000:18:00.0"
	GPU1 = "0000:9a:00.0"
)

// Host is a machine: files, what its programs print, and its GPUs' registers.
type Host struct {
	gputest.Tree
	Prints map[string]string // by program; a program that is not there is missing
	Modes  map[string]string // CC mode by address
}

// World returns the host as facts are gathered from it.
func (h Host) World() facts.World {
	run := &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		key := c.Name
		if c.Name == "virsh" && len(c.Args) > 1 {
			key = "virsh domcapabilities"
		}
		text, ok := h.Prints[key]
		if !ok {
			return "", errors.New(c.Name + ": executable file not found in $PATH")
		}
		return text, nil
	}}
	root := hwtest.New()
	root.MapFS = h.MapFS
	root.Sectors(diskName, hwtest.Blank(diskUnits*512))
	return facts.World{Root: root, Run: run, Registers: gputest.Modes(h.Modes)}
}

// Remove deletes the file or folder and everything below it.
func (h Host) Remove(name string) {
	maps.DeleteFunc(h.MapFS, func(file string, _ *fstest.MapFile) bool { return file == name || strings.HasPrefix(file, name+"/") })
}

// Edit replaces text in a file.
func (h Host) Edit(name, from, to string) {
	h.Put(name, strings.ReplaceAll(string(h.MapFS[name].Data), from, to))
}

// Log adds a line to the kernel's log.
func (h Host) Log(line string) { h.Prints["dmesg"] += line + "\n" }

// EPYC is an SEV-SNP host with two nodes, an H100 on each in mode on, a bridge
// and a free disk.
func EPYC() Host {
	h := base("6.17.0-5-generic")
	cpu(h, "AuthenticAMD", "AMD EPYC 9555 64-Core Processor", "fpu svm sme sev sev_es sev_snp x2apic")
	h.Put("sys/module/kvm_amd/parameters/sev_snp", "Y\n")
	h.Put("sys/module/kvm_amd/parameters/sev", "Y\n")
	h.Put("dev/sev", "")
	h.Put("sys/fs/cgroup/misc.capacity", "sev 410\nsev_es 99\n")
	h.Put("boot/config-6.17.0-5-generic", "CONFIG_KVM_AMD_SEV=y\nCONFIG_IOMMUFD=m\nCONFIG_VFIO_PCI=m\n# CONFIG_KVM_INTEL_TDX is not set\n")
	h.Dir("sys/class/iommu/ivhd0")
	h.Log("ccp 0000:42:00.1: SEV-SNP API:1.55 build:37")
	h.Log("AMD-Vi: Interrupt remapping enabled")
	h.Log("usb 1-1: SerialNumber: ABC123")
	h.firmware("60-edk2-x86_64-amdsev.json", "/usr/share/ovmf/OVMF.amdsev.fd", "amd-sev-es", "amd-sev-snp")
	h.Prints["virsh domcapabilities"] = domcaps("sev", "sev-es", "sev-snp")
	return h
}

// Xeon is a TDX host with the same devices.
func Xeon() Host {
	h := base("6.17.0-5-generic")
	cpu(h, "GenuineIntel", "INTEL(R) XEON(R) PLATINUM 8580", "fpu vmx tdx_host_platform x2apic")
	h.Put("sys/module/kvm_intel/parameters/tdx", "Y\n")
	h.Put("run/tdx-qgs/qgs.socket", "")
	h.Put("etc/qgs.conf", "#port = 4050\nnumber_threads = 4\n")
	h.Put("boot/config-6.17.0-5-generic", "CONFIG_KVM_INTEL_TDX=y\nCONFIG_INTEL_TDX_HOST=y\nCONFIG_IOMMUFD=m\nCONFIG_VFIO_PCI=m\n")
	h.Put("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=UUID=0f0e0d0c-0000-0000-0000-000000000000 ro intel_iommu=on nohibernate\n")
	h.Dir("sys/class/iommu/dmar0")
	h.Log("virt/tdx: module initialized")
	h.firmware("60-edk2-x86_64-inteltdx.json", "/usr/share/ovmf/OVMF.inteltdx.fd", "intel-tdx")
	h.Prints["virsh domcapabilities"] = domcaps("tdx")
	return h
}

// Plain is a host without a TEE, a GPU or a second node.
func Plain() Host {
	h := base("6.12.0")
	cpu(h, "AuthenticAMD", "AMD Ryzen 9", "fpu svm")
	for _, gone := range []string{"sys/bus/pci/devices/" + GPU0, "sys/bus/pci/devices/" + GPU1, "sys/kernel/iommu_groups", "sys/devices/system/node/node1"} {
		h.Remove(gone)
	}
	return h
}

func base(release string) Host {
	h := Host{gputest.New(), map[string]string{}, map[string]string{GPU0: "on", GPU1: "on"}}
	h.Add(GPU0, gputest.Device{ID: 0x2330, Group: 7, NUMA: 0, Driver: "vfio-pci"})
	h.Add(GPU1, gputest.Device{ID: 0x2330, Group: 12, NUMA: 1, Driver: "vfio-pci"})
	h.Put("proc/sys/kernel/osrelease", release+"\n")
	h.Put("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=UUID=0f0e0d0c-0000-0000-0000-000000000000 ro quiet\n")
	h.Put("sys/power/state", "freeze mem disk\n")
	h.Put("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
	h.Put("dev/kvm", "")
	h.Put("dev/iommu", "")
	h.Put("proc/meminfo", "MemTotal:       527952340 kB\nMemFree: 1 kB\nMemAvailable:   500000000 kB\n")
	h.Put("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n")
	h.Put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
	for node, cpus := range map[string]string{"0": "0-63", "1": "64-127"} {
		h.Put("sys/devices/system/node/node"+node+"/cpulist", cpus+"\n")
		h.Put("sys/devices/system/node/node"+node+"/meminfo", "Node "+node+" MemTotal:       263976170 kB\nNode "+node+" MemFree:        250000000 kB\n")
	}
	h.Put("sys/module/apparmor/parameters/enabled", "Y\n")
	h.Put("proc/self/status", "Name:\tcc-install\nUid:\t0\t0\t0\t0\n")
	h.Put("proc/self/limits", "Limit                     Soft Limit           Hard Limit           Units\nMax locked memory         unlimited            unlimited            bytes\n")
	h.network()
	h.disk()
	h.Prints["qemu-system-x86_64"] = "QEMU emulator version 10.1.0 (Debian 1:10.1.0+ds-1)\nCopyright (c) 2003-2025 Fabrice Bellard\n"
	h.Prints["qemu-img"] = "qemu-img version 10.1.0\n"
	h.Prints["virsh"] = "12.2.0\n"
	h.Prints["swtpm"] = "TPM emulator version 0.10.1, Copyright (c) 2014-2022 IBM Corp. and others\n"
	h.Prints["cryptsetup"] = "cryptsetup 2.7.5 flags: UDEV BLKID KEYRING KERNEL_CAPI \n"
	h.Prints["dmesg"] = ""
	return h
}

func cpu(h Host, vendor, model, flags string) {
	var b strings.Builder
	for _, socket := range []string{"0", "1"} {
		b.WriteString("processor\t: " + socket + "\nvendor_id\t: " + vendor + "\nmodel name\t: " + model + "\nphysical id\t: " + socket + "\nflags\t\t: " + flags + "\n\n")
	}
	h.Put("proc/cpuinfo", b.String())
	h.Put("sys/devices/system/cpu/smt/active", "1\n")
}

func (h Host) network() {
	h.Put("sys/class/net/eno1/type", "1\n")
	h.Put("sys/class/net/eno1/operstate", "up\n")
	h.Link("sys/class/net/eno1/device", "../../../0000:01:00.0")
	h.Put("sys/class/net/br0/type", "1\n")
	h.Dir("sys/class/net/br0/bridge")
	h.Dir("sys/class/net/br0/brif/eno1")
	h.Put("proc/net/route", "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\nbr0\t00000000\t0100A8C0\t0003\t0\t0\t425\t00000000\t0\t0\t0\n")
}

// The host's only disk, which is blank.
const (
	diskName  = "nvme0n1"
	diskUnits = 7501476528 // of 512 bytes
)

func (h Host) disk() {
	dir := "sys/block/" + diskName + "/"
	for name, text := range map[string]string{
		"dev": "259:0", "size": fmt.Sprint(diskUnits), "ro": "0", "removable": "0", "queue/logical_block_size": "512", "queue/rotational": "0", "device/serial": "S6PNNM0T",
	} {
		h.Put(dir+name, text+"\n")
	}
	h.Put("proc/self/mountinfo", "")
}

func (h Host) firmware(descriptor, file string, features ...string) {
	h.Put("usr/share/qemu/firmware/"+descriptor, `{"description": "OVMF", "interface-types": ["uefi"],
 "mapping": {"device": "memory", "filename": "`+file+`"},
 "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
 "features": ["`+strings.Join(features, `", "`)+`", "verbose-static"], "tags": []}`)
	h.Put(strings.TrimPrefix(file, "/"), "")
}

func domcaps(types ...string) string {
	return "<domainCapabilities><features><sev supported='yes'/><launchSecurity supported='yes'><enum name='sectype'><value>" +
		strings.Join(types, "</value><value>") + "</value></enum></launchSecurity></features></domainCapabilities>"
}
