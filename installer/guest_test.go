package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"cc-base/installer/settings"
	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/conf"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/gpu"
	"cc-base/tasks/gpu/gputest"
	"cc-base/tasks/hw"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/sh"
	"cc-base/tasks/site"
	"cc-base/tasks/tee/ovmf/ovmftest"
	"cc-base/tasks/tee/snp"
	"cc-base/tasks/tee/snp/idblock"
)

// image is what an installer carries, by name.
func carried(name string) ([]byte, error) {
	data, there := map[string][]byte{
		measurements.SNPFirmware: ovmftest.SNP().Image(), measurements.TDXFirmware: ovmftest.TDX().Image(), measurements.UKI: boottest.UKI("quiet"),
		secureBootCode: []byte("secure code"), secureBootVars: []byte("our keys"), plainCode: []byte("plain code"), plainVars: []byte("plain vars"),
	}[name]
	if !there {
		return nil, fs.ErrNotExist
	}
	return data, nil
}

// describing returns a machine to be described, with the shipped configuration.
func describing(t *testing.T, tee hw.TEE) *guest {
	t.Helper()
	config, err := conf.Load(conf.Options{Dir: "../config"})
	if err != nil {
		t.Fatal(err)
	}
	return &guest{
		name: "cc-base", dir: "/var/lib/cc-base/cc-base", config: config, tee: tee,
		manifest: manifest.Manifest{CommandLines: map[string]string{"tpm": "line tpm", "snp": "line snp", "attested": "line attested"}},
		host:     settings.Settings{GPU: settings.GPU{Index: "none"}}, disk: domain.Volume{Path: "/dev/sdb", Block: true},
		enroll: "/var/lib/cc-base/cc-base/enroll.key",
	}
}

func milan() fstest.MapFS {
	return fstest.MapFS{"proc/cpuinfo": {Data: []byte("cpu family\t: 25\nmodel\t\t: 1\n")}, "sys/module/kvm_amd/parameters/debug_swap": {Data: []byte("Y\n")}}
}

func described(t *testing.T, g *guest, root fs.FS) (domain.Spec, map[string][]byte) {
	t.Helper()
	files, err := g.bootFiles(carried)
	if err != nil {
		t.Fatal(err)
	}
	s, err := g.spec(root, files)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	return s, files
}

func TestASEVSNPGuestIsStartedDirectlyAndBoundToItsDigest(t *testing.T) {
	t.Parallel()
	g := describing(t, hw.SEVSNP)
	g.site = []byte("HOSTNAME=\"node-7\"\n")
	s, files := described(t, g, milan())
	if s.Boot != domain.Direct || s.CommandLine != "line snp" || s.CPUModel != "EPYC-Milan" || !s.SNP.KernelHashes || s.TPM.Present || s.SNP.Policy != 0x30000 {
		t.Errorf("%+v", s)
	}
	hashes, err := snp.HashBoot(bytes.NewReader(files[kernelFile]), bytes.NewReader(files[initrdFile]), "line snp")
	if err != nil {
		t.Fatal(err)
	}
	// The host swaps debug registers: bit 5.
	want, err := snp.Launch(ovmftest.SNP().Image(), snp.Options{VCPUs: g.config.TEE.VCPUs, Model: "EPYC-Milan", Features: 0x21, Kernel: &hashes})
	if err != nil {
		t.Fatal(err)
	}
	block, _, author, err := idblock.Verify(s.SNP.IDBlock, s.SNP.IDAuth)
	if err != nil || author != nil || block.LaunchDigest != want || block.Policy != 0x30000 {
		t.Errorf("ID block %+v, %v; the digest is %s", block, err, want)
	}
	if sum := site.HostData(g.site); !bytes.Equal(s.SNP.HostData, sum[:]) || s.SiteFile != "/var/lib/cc-base/cc-base/site.conf" {
		t.Errorf("host data %x, site.conf %s", s.SNP.HostData, s.SiteFile)
	}
	// Two processors fewer are another digest, and so another block.
	g.config.TEE.VCPUs -= 2
	if less, _ := described(t, g, milan()); bytes.Equal(less.SNP.IDBlock, s.SNP.IDBlock) {
		t.Error("the ID block does not follow the number of processors")
	}
	_, err = g.spec(fstest.MapFS{"proc/cpuinfo": {Data: []byte("cpu family\t: 6\nmodel\t\t: 207\n")}}, files)
	faulttest.Want(t, err, fault.NoTEE, "family 0x6 model 0xcf")
}

func TestATDXGuestReleasesItsKeysFromAnOperator(t *testing.T) {
	t.Parallel()
	g := describing(t, hw.TDX)
	g.site = []byte("HOSTNAME=\"node-7\"\n")
	s, _ := described(t, g, fstest.MapFS{})
	id := site.MRConfigID(g.site)
	if s.Boot != domain.Direct || s.CommandLine != "line attested" || s.ReleaseSocket == "" || s.TDX.Attributes != 0x10000000 || !bytes.Equal(s.TDX.MRConfigID, id[:]) {
		t.Errorf("%+v, %+v", s, s.TDX)
	}
	delete(g.manifest.CommandLines, "attested")
	_, err := g.spec(fstest.MapFS{}, nil)
	faulttest.Want(t, err, fault.NoTEE, "no key profile for tdx")
}

func TestAPlainGuestStartsItsDiskUnderOurKeys(t *testing.T) {
	t.Parallel()
	g := describing(t, hw.NoTEE)
	s, files := described(t, g, fstest.MapFS{})
	if s.Boot != domain.Disk || !s.Firmware.SecureBoot || string(files[codeFile]) != "secure code" || string(files[varsFile]) != "our keys" || !s.TPM.Present || s.Kernel != "" {
		t.Errorf("%+v, %q", s, files)
	}
	// Without our keys in it such firmware would start nothing.
	files, err := g.bootFiles(func(name string) ([]byte, error) {
		if name == secureBootVars {
			return nil, fs.ErrNotExist
		}
		return carried(name)
	})
	if err != nil || string(files[codeFile]) != "plain code" || string(files[varsFile]) != "plain vars" || g.secureBoot {
		t.Errorf("%q, %v", files, err)
	}
	_, err = g.bootFiles(func(string) ([]byte, error) { return nil, fs.ErrNotExist })
	faulttest.Want(t, err, fault.NoTEE, "the installer has no firmware/")
	g.site = []byte("NONESUCH=1\n")
	if _, err = g.bootFiles(carried); err == nil {
		t.Error("a site.conf that the guest would refuse is taken")
	}
}

func TestGPUsThatCannotGoAreSaidBeforeAnythingIsMade(t *testing.T) {
	t.Parallel()
	tree := gputest.New().Add("0000:18:00.0", gputest.Device{ID: 0x2330, Driver: "nvidia"})
	functions, err := gpu.List(tree)
	if err != nil {
		t.Fatal(err)
	}
	g := describing(t, hw.NoTEE)
	g.gpus, g.host.GPU.Index = functions, "0"
	files, err := g.bootFiles(carried)
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.spec(tree, files)
	faulttest.Want(t, err, fault.HostUnfit, "0000:18:00.0")
}

// No libvirt, an old one, a name that is taken: nothing is written anywhere.
func TestAHostThatCannotTakeTheVMIsLeftAsItWas(t *testing.T) {
	t.Parallel()
	dir := installer(t)
	for name, tt := range map[string]struct {
		answer func(c sh.Cmd) (string, error)
		code   fault.Code
	}{
		"no virsh": {func(c sh.Cmd) (string, error) { return "", &sh.Error{Name: c.Name, Code: -1, Cause: exec.ErrNotFound} }, fault.NoLibvirt},
		"no daemon": {func(c sh.Cmd) (string, error) {
			return "", &sh.Error{Name: c.Name, Code: 1, Tail: []string{"error: failed to connect to the hypervisor", "error: Failed to connect socket to '/var/run/libvirt/libvirt-sock'"}}
		}, fault.NoLibvirt},
		"an old QEMU": {func(c sh.Cmd) (string, error) {
			if slices.Contains(c.Args, "version") {
				return "Using library: libvirt 9.0.0\nRunning hypervisor: QEMU 6.2.0\nRunning against daemon: 9.0.0\n", nil
			}
			return "", nil
		}, fault.NoLibvirt},
	} {
		disk := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(disk, bytes.Repeat([]byte{used}, 20<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		state, root := filepath.Join(t.TempDir(), "state"), t.TempDir()
		a, out := inProcess(os.DirFS("/"), "", false)
		a.programs = &sh.Recorder{Answer: tt.answer}
		err := a.run(t.Context(), []string{"install", disk, "--yes", "--allow-file", "--emulate", "--dir", dir, "--state", state, "--root", root})
		if f := fault.Of(err); f == nil || f.Code != tt.code {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		unchanged(t, disk)
		if _, err := os.Stat(state); err == nil {
			t.Errorf("%s: %s was made", name, state)
		}
		if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", name, left, err)
		}
	}
}

func TestUninstallOfADiskAlone(t *testing.T) {
	t.Parallel()
	dir := installer(t)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, bytes.Repeat([]byte{used}, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "state")
	run := func(args ...string) (string, error) {
		a, out := inProcess(os.DirFS("/"), "", false)
		err := a.run(t.Context(), append(args, "--dir", dir, "--state", state))
		return out.String(), err
	}
	if out, err := run("install", "--disk-only", disk, "--yes", "--allow-file"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, err := run("uninstall", "nonesuch")
	faulttest.Want(t, err, fault.NoVM, "nonesuch")
	installed, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run("uninstall", "cc-base", "--wipe"); fault.Exit(err) != fault.ExitUsage {
		t.Errorf("a disk is wiped without a word: %v", err)
	}
	if out, err := run("uninstall", "cc-base"); err != nil || !strings.Contains(out, "still holds the installation") {
		t.Errorf("%v\n%s", err, out)
	}
	if now, err := os.ReadFile(disk); err != nil || !bytes.Equal(now, installed) {
		t.Errorf("the disk was changed (%v)", err)
	}
	if _, err := os.Stat(filepath.Join(state, "cc-base")); err == nil {
		t.Error("the record is still there")
	}
}
