package domain_test

// What must hold for every confidential guest, whatever the golden files become.
// Green does not prove that libvirt and QEMU add nothing by themselves; what
// they would add unasked is asked off here.

import (
	"slices"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"cc-base/tasks/domain"
)

// confidential calls check with every confidential guest, as libvirt reads it
// and as QEMU does.
func confidential(t *testing.T, check func(t *testing.T, d libvirtxml.Domain, argv []string)) {
	t.Helper()
	for name, s := range specs() {
		if s.SNP == nil && s.TDX == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var d libvirtxml.Domain
			if err := d.Unmarshal(text(t, s)); err != nil {
				t.Fatal(err)
			}
			check(t, d, argv(t, s))
		})
	}
}

// without fails when an argument contains one of the words.
func without(t *testing.T, argv []string, words ...string) {
	t.Helper()
	for _, a := range argv {
		for _, word := range words {
			if strings.Contains(a, word) {
				t.Errorf("QEMU gets %s", a)
			}
		}
	}
}

// devices are the values of -device of the kind.
func devices(argv []string, kind string) []string {
	var found []string
	for i, a := range argv {
		if i > 0 && argv[i-1] == "-device" && strings.HasPrefix(a, kind) {
			found = append(found, a)
		}
	}
	return found
}

// Flash is neither in a launch measurement nor kept from the host.
func TestAConfidentialGuestHasNoFlash(t *testing.T) {
	t.Parallel()
	confidential(t, func(t *testing.T, d libvirtxml.Domain, argv []string) {
		if l := d.OS.Loader; l.Type != "rom" || l.Stateless != "yes" || l.Readonly != "" || l.Secure != "" || d.OS.NVRam != nil {
			t.Errorf("%+v, variables %+v", l, d.OS.NVRam)
		}
		without(t, argv, "pflash")
		if !slices.Contains(argv, "-bios") {
			t.Error("QEMU gets no -bios")
		}
	})
}

// guest_memfd takes no memory while the guest runs.
func TestAConfidentialGuestHasNoMemorySlots(t *testing.T) {
	t.Parallel()
	confidential(t, func(t *testing.T, d libvirtxml.Domain, argv []string) {
		if d.MaximumMemory != nil || len(d.Devices.Memorydevs) > 0 || d.MemoryBacking != nil && d.MemoryBacking.MemoryHugePages != nil {
			t.Errorf("%+v %+v %+v", d.MaximumMemory, d.Devices.Memorydevs, d.MemoryBacking)
		}
		without(t, argv, "slots=", "maxmem", "pc-dimm", "virtio-mem", "nvdimm", "hugetlb")
	})
}

// A virtio device that passes the IOMMU by reads memory that it cannot read.
func TestEveryVirtioDeviceOfAConfidentialGuestGoesThroughTheIOMMU(t *testing.T) {
	t.Parallel()
	confidential(t, func(t *testing.T, d libvirtxml.Domain, argv []string) {
		on := map[string]string{}
		for _, x := range d.Devices.Disks {
			on["disk "+x.Target.Dev] = x.Driver.IOMMU
		}
		for _, x := range d.Devices.Interfaces {
			on["network card"] = x.Driver.IOMMU
		}
		for _, x := range d.Devices.RNGs {
			on["random numbers"] = x.Driver.IOMMU
		}
		for _, x := range d.Devices.Controllers {
			if x.Type != "usb" {
				on["controller "+x.Type] = x.Driver.IOMMU
			}
		}
		if len(on) != 4 {
			t.Errorf("other devices than were expected: %v", on)
		}
		for name, setting := range on {
			if setting != "on" {
				t.Errorf("%s: iommu=%q", name, setting)
			}
		}
		x := d.Devices
		if n := len(x.Filesystems) + len(x.Inputs) + len(x.Videos) + len(x.Graphics) + len(x.Sounds) + len(x.Shmems) + len(x.Smartcards) + len(x.RedirDevs); n > 0 || x.VSock != nil {
			t.Errorf("%d devices that were not asked for, vsock %+v", n, x.VSock)
		}
		virtio := devices(argv, "virtio-")
		if len(virtio) != 4 {
			t.Errorf("QEMU gets %q", virtio)
		}
		for _, device := range virtio {
			if !strings.Contains(device, ",iommu_platform=on") || !strings.Contains(device, ",disable-legacy=on") {
				t.Errorf("QEMU gets %s", device)
			}
		}
	})
}

// An option ROM is the host's code in the guest's firmware.
func TestAConfidentialGuestHasNoOptionROMs(t *testing.T) {
	t.Parallel()
	confidential(t, func(t *testing.T, d libvirtxml.Domain, argv []string) {
		for _, x := range d.Devices.Interfaces {
			if x.ROM == nil || x.ROM.Enabled != "no" || x.ROM.File != nil {
				t.Errorf("network card: %+v", x.ROM)
			}
		}
		for _, x := range d.Devices.Hostdevs {
			if x.ROM == nil || x.ROM.Bar != "off" || x.ROM.File != nil {
				t.Errorf("GPU: %+v", x.ROM)
			}
		}
		for _, device := range devices(argv, "virtio-net-pci") {
			if !strings.Contains(device+",", ",romfile=,") {
				t.Errorf("QEMU gets %s", device)
			}
		}
		for _, device := range devices(argv, "vfio-pci") {
			if !strings.Contains(device, ",rombar=0") || strings.Contains(device, "romfile") {
				t.Errorf("QEMU gets %s", device)
			}
		}
		without(t, argv, "-option-rom")
	})
}

// A balloon takes pages that the guest has accepted as its own.
func TestAConfidentialGuestHasNoBalloon(t *testing.T) {
	t.Parallel()
	confidential(t, func(t *testing.T, d libvirtxml.Domain, argv []string) {
		if b := d.Devices.MemBalloon; b == nil || b.Model != "none" {
			t.Errorf("%+v: libvirt adds one unless it is told not to", b)
		}
		without(t, argv, "balloon")
		if !slices.Contains(argv, "-nodefaults") {
			t.Error("QEMU adds devices of its own")
		}
	})
}

// And what else the host could look or reach in by.
func TestAConfidentialGuestHasNoOtherWayIn(t *testing.T) {
	t.Parallel()
	confidential(t, func(t *testing.T, d libvirtxml.Domain, argv []string) {
		if f := d.Features; f.VMPort == nil || f.VMPort.State != "off" || f.SMM == nil || f.SMM.State != "off" {
			t.Errorf("vmport %+v, system management mode %+v", f.VMPort, f.SMM)
		}
		if d.OnCrash != "destroy" || len(d.Devices.Panics) != 1 || d.Devices.Panics[0].Model != "pvpanic" {
			t.Errorf("a panic does not stop it: %q %+v", d.OnCrash, d.Devices.Panics)
		}
		usb := func(c libvirtxml.DomainController) bool { return c.Type == "usb" && c.Model == "none" }
		if !slices.ContainsFunc(d.Devices.Controllers, usb) {
			t.Error("libvirt adds a USB controller unless it is told not to")
		}
		without(t, argv, "-vga", "-usb", "qemu-xhci", "vnc", "spice")
	})
}

func TestSocketsOfADomainAreFoundByItsName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"cc-base": "/run/cc-base/cc-base/control.sock", "a": "/run/cc-base/a/control.sock"} {
		if got, err := domain.ControlSocketOf(name); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := domain.ReleaseSocketOf("cc-base"); err != nil || got != snpDirect().ReleaseSocket {
		t.Errorf("%q, %v", got, err)
	}
	if got, _ := domain.ControlSocketOf("cc-base"); got != snpDirect().ControlSocket {
		t.Errorf("the examples of this package have another place, %s", snpDirect().ControlSocket)
	}
	// The longest name leaves the path short enough for a socket.
	s := snpDirect()
	s.Name = strings.Repeat("n", 63)
	s.ControlSocket, _ = domain.ControlSocketOf(s.Name)
	s.ReleaseSocket, _ = domain.ReleaseSocketOf(s.Name)
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", ".", "..", "../x", "a/b", "-a", strings.Repeat("n", 64), "a\n"} {
		if got, err := domain.ControlSocketOf(name); err == nil {
			t.Errorf("%q: %s", name, got)
		}
	}
}
