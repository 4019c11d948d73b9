package build_test

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"

	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/deb"
	"cc-base/tasks/digest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/sbom"
	"cc-base/tasks/sbom/sbomtest"
)

// tree reads the root file system as it was sealed: headers of everything,
// content of small files.
func tree(t *testing.T, image lab.Image) (headers map[string]*tar.Header, content map[string]string) {
	t.Helper()
	f, err := os.Open(image.Path("scratch", "root.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	headers, content = map[string]*tar.Header{}, map[string]string{}
	filetest.EachInTar(t, f, func(h *tar.Header, r io.Reader) {
		p := path.Clean("/" + h.Name)
		if headers[p] != nil {
			t.Errorf("%s is there twice", p)
		}
		headers[p] = h
		if h.Typeflag == tar.TypeReg && h.Size < 1<<20 {
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			content[p] = string(data)
		}
	})
	return headers, content
}

func TestTheRootFileSystemHoldsNothingOfOneMachineOrOneDay(t *testing.T) {
	image := lab.Built(t)
	headers, content := tree(t, image)
	for p, h := range headers {
		for _, dir := range []string{"/var/log/", "/var/cache/", "/var/lib/apt/lists/", "/tmp/", "/root/", "/etc/apt/sources.list.d/"} {
			if strings.HasPrefix(p, dir) {
				t.Errorf("%s is in the image", p)
			}
		}
		if strings.Contains(p, "ssh_host_") || strings.HasPrefix(p, "/boot/initrd") || p == "/usr/sbin/policy-rc.d" || p == "/etc/apt/sources.list" {
			t.Errorf("%s is in the image", p)
		}
		if h.ModTime.Unix() > image.Manifest.SourceDateEpoch {
			t.Errorf("%s is from %s", p, h.ModTime)
		}
	}
	if h := headers["/etc/machine-id"]; h == nil || h.Size != 0 {
		t.Error("/etc/machine-id is not there and empty")
	}
	for p, want := range map[string]string{"/etc/hostname": "cc-base\n", "/etc/locale.conf": "LANG=C.UTF-8\n"} {
		if content[p] != want {
			t.Errorf("%s holds %q, want %q", p, content[p], want)
		}
	}
	if h := headers["/etc/localtime"]; h == nil || h.Linkname != "/usr/share/zoneinfo/UTC" {
		t.Errorf("/etc/localtime is %+v", h)
	}
}

func TestTheGuestProgramAndTheTEEModulesAreInTheImage(t *testing.T) {
	image := lab.Built(t)
	headers, content := tree(t, image)
	if h := headers["/usr/lib/cc/cc-guest"]; h == nil || h.Mode&0o777 != 0o755 || h.Uid != 0 {
		t.Errorf("cc-guest is %+v", h)
	}
	if _, err := settings.Decode([]byte(content[settings.Path])); err != nil {
		t.Errorf("%s: %v", settings.Path, err)
	}
	for _, module := range teeModules() {
		if !slices.ContainsFunc(keysOf(headers), func(p string) bool { return strings.Contains(p, "/"+module+".ko") }) {
			t.Errorf("the kernel in the image has no module %s", module)
		}
	}
	for _, module := range []string{"sev-guest", "tdx-guest", "tsm"} {
		if !strings.Contains(content["/etc/modules-load.d/cc-tee.conf"], module+"\n") {
			t.Errorf("%s is not loaded at boot", module)
		}
	}
}

func teeModules() []string { return []string{"sev-guest", "tdx-guest", "tsm", "configfs"} }

func keysOf[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

func TestTheInitrdHasWhatItNeedsAndNoShellNoLoginNoNetwork(t *testing.T) {
	image := lab.Built(t)
	var names []string
	r := cpio.NewReader(filetest.Gunzip(t, image.Path("scratch", "initrd.img")))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	for _, part := range append(teeModules(), "dm-crypt", "dm-verity", "erofs", "virtio_blk", "qemu_fw_cfg") {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "/"+part+".ko") }) {
			t.Errorf("the initrd has no module %s", part)
		}
	}
	for _, need := range []string{"usr/lib/cc/cc-guest", "usr/sbin/cryptsetup", "usr/sbin/veritysetup", "usr/lib/systemd/systemd"} {
		if !slices.Contains(names, need) {
			t.Errorf("the initrd has no %s", need)
		}
	}
	for _, n := range names {
		switch path.Base(n) {
		case "sh", "bash", "dash", "busybox", "agetty", "login", "sulogin", "dhclient", "systemd-networkd", "ip", "sshd":
			t.Errorf("the initrd has %s", n)
		}
	}
}

func TestEveryPackageIsRecordedWithVersionAndDigest(t *testing.T) {
	image := lab.Built(t)
	data, err := os.ReadFile(image.Path("scratch", "packages.json"))
	if err != nil {
		t.Fatal(err)
	}
	var packages []deb.Package
	if err := json.Unmarshal(data, &packages); err != nil {
		t.Fatal(err)
	}
	_, content := tree(t, image)
	installed := strings.Count(content["/var/lib/dpkg/status"], "\nStatus: install ok installed\n")
	if installed != len(packages) || installed == 0 {
		t.Errorf("%d packages are installed, %d are recorded", installed, len(packages))
	}
	sbomtest.CycloneDX(t, filetest.Read(t, image.Path(sbom.CycloneDXFile)))
	sbomtest.SPDX(t, filetest.Read(t, image.Path(sbom.SPDXFile)))
	bill, err := sbom.Read(filetest.Read(t, image.Path(sbom.CycloneDXFile)))
	if err != nil {
		t.Fatal(err)
	}
	billed := map[string]sbom.Component{}
	for _, c := range bill.Components {
		billed[c.Name+" "+c.Version] = c
	}
	licensed, needing := 0, 0
	for _, p := range packages {
		c := billed[p.Name+" "+p.Version]
		if p.Version == "" || len(p.SHA256) != 64 || c.SHA256 != p.SHA256 {
			t.Errorf("recorded %+v, in the bill of materials %+v", p, c)
		}
		licensed += min(1, len(c.Licence))
		needing += min(1, len(c.Needs))
	}
	// Not every package has a copyright file that a program can read, or needs another.
	if licensed*10 < len(packages)*8 || needing*10 < len(packages)*5 {
		t.Errorf("of %d packages %d have a licence and %d need another", len(packages), licensed, needing)
	}
	for _, name := range []string{"cc-guest", "cc-install", "cc-base.efi", "stdlib", "firmware/OVMF_CODE_4M.fd", "ovmf", "systemd-boot-efi"} {
		if !slices.ContainsFunc(bill.Components, func(c sbom.Component) bool { return c.Name == name }) {
			t.Errorf("%s is not in the bill of materials", name)
		}
	}
	for _, c := range bill.Components {
		if sum, err := digest.File(image.Path(c.Name)); err == nil && sum != c.SHA256 {
			t.Errorf("%s has %s, in the bill of materials %s", c.Name, sum, c.SHA256)
		}
	}
	other, err := sbom.Read(filetest.Read(t, image.Path(sbom.SPDXFile)))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(bill.Components, other.Components); d != "" {
		t.Errorf("the two bills of materials differ:\n%s", d)
	}
}
