package rootfs

import "fmt"

// Distribution is the table of names that differ between guest distributions.
// Debian is built and booted by the test suite; Ubuntu's row is covered by
// golden plans only (config/os.conf: EXPERIMENTAL).
type Distribution struct {
	Name       string
	Origin     string            // Origin field of its Release files
	Keyring    string            // on the build machine
	KeyringPkg string            // package that brings Keyring
	URIEnd     string            // last path element of its mirrors' URIs
	Kernels    map[string]string // os.conf KERNEL → package
	Base       []string          // every image has these
	Security   string            // suite suffix of the security archive
}

// DistributionByName returns the row, or an error naming those that exist.
func DistributionByName(name string) (Distribution, error) {
	for _, d := range distributions() {
		if d.Name == name {
			return d, nil
		}
	}
	return Distribution{}, fmt.Errorf("distribution %q is not known; allowed: debian, ubuntu", name)
}

func distributions() []Distribution {
	base := []string{
		"systemd", "systemd-sysv", "udev", "kmod", "dbus", // init and devices
		"dracut", "dracut-core", "cryptsetup-bin", // initrd and volumes
		"nftables", "iproute2", "systemd-resolved", "systemd-timesyncd", "auditd", // network, time, audit
		"libtss2-esys-3.0.2-0t64", "libtss2-rc0t64", "libtss2-tcti-device0t64",
	}
	return []Distribution{
		{
			Name:       "debian",
			Origin:     "Debian",
			Keyring:    "/usr/share/keyrings/debian-archive-keyring.gpg",
			KeyringPkg: "debian-archive-keyring",
			URIEnd:     "debian",
			Kernels:    map[string]string{"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"},
			Base:       append(base[:len(base):len(base)], "systemd-cryptsetup"),
			Security:   "-security",
		},
		{
			Name:       "ubuntu",
			Origin:     "Ubuntu",
			Keyring:    "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
			KeyringPkg: "ubuntu-keyring",
			URIEnd:     "ubuntu",
			Kernels:    map[string]string{"cloud": "linux-image-virtual", "generic": "linux-image-generic"},
			Base:       base,
			Security:   "-security",
		},
	}
}

// Unneeded returns the dpkg path patterns that keep manuals, translations and
// other text for people out of an image in which nobody logs in. Copyright
// files stay: licences ask for it.
func Unneeded() (exclude, include []string) {
	return []string{"/usr/share/man/*", "/usr/share/info/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/bug/*", "/usr/share/lintian/*"},
		[]string{"/usr/share/doc/*/copyright"}
}
