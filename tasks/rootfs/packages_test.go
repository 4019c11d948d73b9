package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/deb"
)

func TestReadPackages(t *testing.T) {
	t.Parallel()
	hash := func(c string) string { return strings.Repeat(c, 64) }
	entry := func(name, version, arch, sha string) string {
		return "Package: " + name + "\nVersion: " + version + "\nArchitecture: " + arch + "\nSHA256: " + sha + "\n"
	}
	tests := []struct {
		name, text string
		want       []deb.Package
		err        string // after the file's name
	}{
		{name: "all fields of a stanza",
			text: "Package: libc6\nSource: glibc (2.41-1)\nVersion: 2.41-12\nArchitecture: amd64\nDepends: a, b: c\nDescription: the C library\n Package: not this one\n .\n more\nSize: 123\nFilename: pool/main/g/glibc/libc6.deb\nMD5sum: x\nSHA256: " + hash("a") + "\nHomepage: https://www.example.org/\n",
			want: []deb.Package{{Name: "libc6", Version: "2.41-12", Architecture: "amd64", Source: "glibc (2.41-1)", Filename: "pool/main/g/glibc/libc6.deb", SHA256: hash("a"), Size: 123}}},
		{name: "sorted by name, architecture and version",
			text: entry("b", "1", "amd64", hash("1")) + "\n" + entry("a", "1", "i386", hash("2")) + "\n\n\n" + entry("a", "2", "amd64", hash("3")) + "\n" + entry("a", "1", "amd64", hash("4")) + "\n",
			want: []deb.Package{
				{Name: "a", Version: "1", Architecture: "amd64", SHA256: hash("4")}, {Name: "a", Version: "2", Architecture: "amd64", SHA256: hash("3")},
				{Name: "a", Version: "1", Architecture: "i386", SHA256: hash("2")}, {Name: "b", Version: "1", Architecture: "amd64", SHA256: hash("1")}}},
		{name: "no hash", text: "Package: a\nVersion: 1\n\n", err: `:3: package "a" has no version or no SHA256`},
		{name: "no hash in the last stanza", text: entry("a", "1", "all", hash("a")) + "\nPackage: b\nVersion: 1\n", err: `:7: package "b" has no version or no SHA256`},
		{name: "half a hash", text: entry("a", "1", "all", hash("a")[:63]), err: `:4: package "a" has no version or no SHA256`},
		{name: "a hash in upper case", text: entry("a", "1", "all", hash("A")), err: `:4: package "a" has no version or no SHA256`},
		{name: "no version", text: "Package: a\nSHA256: " + hash("a") + "\n", err: `:2: package "a" has no version or no SHA256`},
		{name: "no name", text: "Version: 1\nSHA256: " + hash("a") + "\n", err: `:2: package "" has no version or no SHA256`},
		{name: "a size that is no number", text: "Package: a\nSize: big\n", err: `:2: size: strconv.ParseInt: parsing "big": invalid syntax`},
		{name: "nothing", text: "", err: ": no packages"},
		{name: "empty lines", text: "\n\n", err: ": no packages"},
		{name: "a line beyond all reason", text: "Description: " + strings.Repeat("x", 2<<20) + "\n", err: "bufio.Scanner: token too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "packages.list")
			putFile(t, file, tt.text, 0o644)
			got, err := ReadPackages(file)
			if tt.err != "" {
				if err == nil || strings.TrimPrefix(err.Error(), file) != tt.err {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := ReadPackages(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestDropped(t *testing.T) {
	t.Parallel()
	for p, want := range map[string]bool{
		"/var/log": false, "/var/log/dpkg.log": true, "/var/logs": false, "/var/cache/apt/pkgcache.bin": true, "/var/lib/apt/lists/partial": true,
		"/var/lib/apt/extended_states": false, "/var/lib/dpkg/status": false, "/tmp": false, "/tmp/x": true, "/run/lock": true, "/dev/null": true, "/dev": false,
		"/root/.bashrc": true, "/root": false, "/etc/machine-id": true, "/etc/machine-id2": false, "/etc/hostname": true, "/etc/resolv.conf": true,
		"/etc/apt/sources.list": true, "/etc/apt/sources.list.d/x.sources": true, "/etc/apt/trusted.gpg.d/x.gpg": false, "/etc/passwd": false, "/etc/passwd-": true,
		"/etc/shadow-": true, "/etc/ssh/ssh_host_rsa_key": true, "/etc/ssh/sshd_config": false, "/boot/initrd.img-6.12.0": true, "/initrd.img.old": true,
		"/boot/vmlinuz-6.12.0": false, "/usr/lib/x/tmp/y": false, "/": false, "/var/lib/systemd/random-seed": true,
	} {
		if got := Dropped(p); got != want {
			t.Errorf("%s: got %v, want %v", p, got, want)
		}
	}
}
