package facts_test

// What green does not prove: no host here is real, and no program is run. That
// sysfs, virsh and dmesg of a real SNP, TDX or GPU host look like these is
// known from documentation only.

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/facts"
	"cc-base/tasks/facts/factstest"
	"cc-base/tasks/golden"
	"cc-base/tasks/gpu"
	"cc-base/tasks/hw"
)

func gather(t *testing.T, h factstest.Host) facts.Facts {
	t.Helper()
	return facts.Gather(t.Context(), h.World())
}

func TestTheFactsOfAHostAsJSON(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]factstest.Host{"epyc": factstest.EPYC(), "xeon": factstest.Xeon(), "plain": factstest.Plain()} {
		text, err := json.MarshalIndent(gather(t, h), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, name+".json", string(text)+"\n")
		for _, secret := range []string{"S6PNNM0T", "0f0e0d0c", "ABC123", "0100A8C0"} {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s: %s is in the facts", name, secret)
			}
		}
		var back facts.Facts
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatalf("%s: its own JSON cannot be read: %v", name, err)
		}
		again, err := json.MarshalIndent(back, "", "  ")
		if err != nil || !bytes.Equal(text, again) {
			t.Errorf("%s: JSON that was read and written differs: %v\n%s", name, err, cmp.Diff(string(text), string(again)))
		}
	}
}

func TestLibvirtIsAskedBeforeTheKernel(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		spoil func(h factstest.Host)
		want  hw.TEE
		by    string
	}{
		{"both say yes", func(factstest.Host) {}, hw.SEVSNP, "domcapabilities"},
		{"the kernel's parameter cannot be read", func(h factstest.Host) { h.Remove("sys/module/kvm_amd") }, hw.SEVSNP, "domcapabilities"},
		{"libvirt knows older kinds only", func(h factstest.Host) {
			h.Prints["virsh domcapabilities"] = strings.ReplaceAll(h.Prints["virsh domcapabilities"], "<value>sev-snp</value>", "")
		}, hw.SEVSNP, "sysfs"},
		{"libvirt is not there", func(h factstest.Host) { delete(h.Prints, "virsh domcapabilities") }, hw.SEVSNP, "sysfs"},
		{"libvirt says nothing, and SNP is off", func(h factstest.Host) {
			h.Prints["virsh domcapabilities"] = "<domainCapabilities><features/></domainCapabilities>"
			h.Put("sys/module/kvm_amd/parameters/sev_snp", "N\n")
		}, hw.NoTEE, "sysfs"},
		{"libvirt prints no XML", func(h factstest.Host) { h.Prints["virsh domcapabilities"] = "error: failed" }, hw.SEVSNP, "sysfs"},
		{"launch security is not supported", func(h factstest.Host) {
			h.Prints["virsh domcapabilities"] = strings.ReplaceAll(h.Prints["virsh domcapabilities"], "<launchSecurity supported='yes'>", "<launchSecurity supported='no'>")
		}, hw.SEVSNP, "sysfs"},
	} {
		h := factstest.EPYC()
		test.spoil(h)
		got := gather(t, h).TEE
		if got.Kind != test.want || got.By != test.by || got.Why == "" {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}

func TestKernelOptions(t *testing.T) {
	t.Parallel()
	h := factstest.Plain()
	h.Put("proc/cmdline", "root=/dev/sda1 iommu=off nohibernate iommu=pt kvm_amd.sev=1 ip=10.0.0.2::10.0.0.1\n")
	k := gather(t, h).Kernel
	if diff := cmp.Diff([]string{"iommu=off", "nohibernate", "iommu=pt", "kvm_amd.sev=1"}, k.Options); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	if v, ok := k.Option("iommu"); v != "pt" || !ok {
		t.Errorf("iommu is %q, %v: the last one counts", v, ok)
	}
	if v, ok := k.Option("nohibernate"); v != "" || !ok {
		t.Errorf("nohibernate: %q, %v", v, ok)
	}
	if _, ok := k.Option("root"); ok {
		t.Error("root is shown")
	}
}

func TestACardThatIsNamedByItsAddressGetsAnotherName(t *testing.T) {
	t.Parallel()
	h := factstest.EPYC()
	h.Put("sys/class/net/enx001122334455/type", "1\n")
	h.Link("sys/class/net/enx001122334455/device", "../../../1-1")
	h.Link("sys/class/net/enx001122334455/master", "../br0")
	h.Dir("sys/class/net/br0/brif/enx001122334455")
	h.Edit("proc/net/route", "br0", "enx001122334455")
	n := gather(t, h).Network
	b, err := json.Marshal(n)
	if err != nil || bytes.Contains(b, []byte("1122")) {
		t.Errorf("%v: %s", err, b)
	}
	bridge, _ := n.Lookup("br0")
	if n.Default != "enx-0" || !n.Uplinked(bridge) || strings.Join(bridge.Members, " ") != "eno1 enx-0" {
		t.Errorf("got %+v", n)
	}
}

func TestTheLogHasNoCommandLine(t *testing.T) {
	t.Parallel()
	h := factstest.EPYC()
	h.Prints["dmesg"] = ""
	h.Log("Kernel command line: root=UUID=0f0e iommu=pt")
	h.Log("pci 0000:00:00.0: Adding to iommu group 0")
	h.Log("SEV-SNP: RMP table physical range [0x1-0x2]")
	if diff := cmp.Diff([]string{"SEV-SNP: RMP table physical range [0x1-0x2]"}, gather(t, h).Kernel.Log); diff != "" {
		t.Error(diff)
	}
}

func TestTheKernelsConfigurationIsFoundWhereverItIs(t *testing.T) {
	t.Parallel()
	const text = "# comment\nCONFIG_KVM_AMD_SEV=y\n# CONFIG_IOMMUFD is not set\n"
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"boot/config-6.12.0": text, "lib/modules/6.12.0/config": text, "proc/config.gz": zipped.String()} {
		h := factstest.Plain()
		h.Put(name, data)
		if got := gather(t, h).Kernel.Config; got["KVM_AMD_SEV"] != "y" || got["IOMMUFD"] != "n" || got["KVM_INTEL_TDX"] != "n" {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := gather(t, factstest.Plain()).Kernel.Config; got != nil {
		t.Errorf("none: %v", got)
	}
}

func TestFirmwareDescriptors(t *testing.T) {
	t.Parallel()
	h := factstest.EPYC()
	h.Put("usr/share/qemu/firmware/50-flash.json", `{"mapping": {"device": "flash", "executable": {"filename": "/usr/share/OVMF/OVMF_CODE_4M.fd"}}, "targets": [{"architecture": "x86_64"}], "features": ["acpi-s3"]}`)
	h.Put("usr/share/qemu/firmware/40-arm.json", `{"mapping": {"device": "flash"}, "targets": [{"architecture": "aarch64"}]}`)
	h.Put("usr/share/qemu/firmware/30-broken.json", `{`)
	h.Put("usr/share/qemu/firmware/20-hidden.json", `{"mapping": {"device": "memory", "filename": "/x"}, "targets": [{"architecture": "x86_64"}]}`)
	h.Put("etc/qemu/firmware/20-hidden.json", "")
	want := []facts.Firmware{
		{Descriptor: "50-flash.json", File: "/usr/share/OVMF/OVMF_CODE_4M.fd", Device: "flash", Features: []string{"acpi-s3"}},
		{Descriptor: "60-edk2-x86_64-amdsev.json", File: "/usr/share/ovmf/OVMF.amdsev.fd", Exists: true, Device: "memory", Features: []string{"amd-sev-es", "amd-sev-snp", "verbose-static"}},
	}
	if diff := cmp.Diff(want, gather(t, h).Firmware); diff != "" {
		t.Errorf("firmware (-want +got):\n%s", diff)
	}
}

func TestProgramsAreFoundUnderEveryName(t *testing.T) {
	t.Parallel()
	h := factstest.EPYC()
	h.Prints["/usr/libexec/qemu-kvm"] = "QEMU emulator version 9.1.0 (qemu-kvm-9.1.0-15.el9)\n"
	delete(h.Prints, "qemu-system-x86_64")
	delete(h.Prints, "swtpm")
	h.Prints["cryptsetup"] = "no number\n"
	f := gather(t, h)
	for name, want := range map[string]facts.Program{
		"qemu-system-x86_64": {Name: "qemu-system-x86_64", Version: "9.1.0"},
		"swtpm":              {Name: "swtpm", Problem: "swtpm: executable file not found in $PATH"},
		"cryptsetup":         {Name: "cryptsetup", Problem: "it tells no version"},
		"nothing":            {Name: "nothing", Problem: "not asked"},
	} {
		if diff := cmp.Diff(want, f.Program(name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestWhatCannotBeReadIsSaidAndNeverFatal(t *testing.T) {
	t.Parallel()
	f := facts.Gather(t.Context(), facts.World{Root: os.DirFS(t.TempDir())})
	for _, want := range []string{"GPUs: ", "network: ", "disks: "} {
		if !strings.Contains(strings.Join(f.Unread, "\n"), want) {
			t.Errorf("%q is missing in %q", want, f.Unread)
		}
	}
	if f.TEE.Kind != hw.NoTEE || f.Program("virsh").Problem != "not asked" {
		t.Errorf("got %+v", f)
	}
}

func TestModesAreReadOnlyWithRegisters(t *testing.T) {
	t.Parallel()
	h := factstest.EPYC()
	if got := gather(t, h).NVIDIA[0].Mode; got.Mode != gpu.ModeOn {
		t.Errorf("got %+v", got)
	}
	w := h.World()
	w.Registers = nil
	if got := facts.Gather(t.Context(), w).NVIDIA[0].Mode; got != (gpu.ModeReading{}) {
		t.Errorf("got %+v", got)
	}
}

func TestSecurity(t *testing.T) {
	t.Parallel()
	h := factstest.Plain()
	h.Put("sys/fs/selinux/enforce", "1")
	h.Put("etc/libvirt/qemu.conf", "# security_driver = \"selinux\"\nsecurity_driver = \"none\"\n")
	h.Put("proc/self/limits", "Max locked memory         8388608              16777216             bytes\n")
	want := facts.Security{SELinux: "enforcing", AppArmor: true, LibvirtDriver: "none", MemlockSoft: "8388608", MemlockHard: "16777216"}
	if diff := cmp.Diff(want, gather(t, h).Security); diff != "" {
		t.Error(diff)
	}
}

// Whatever this machine is, gathering works on it.
func TestThisMachine(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/meminfo"); err != nil {
		t.Skip("no procfs here")
	}
	f := facts.Gather(t.Context(), facts.World{Root: os.DirFS("/"), Registers: gpu.Sysfs{Root: "/"}})
	if f.Memory.Total == 0 || f.CPU.Threads == 0 || f.Kernel.Release == "" {
		t.Errorf("got %+v", f)
	}
}
