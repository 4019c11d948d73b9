package rootfs

import (
	"fmt"
	"strings"
)

// Settings is the little that os.conf says about the running system.
type Settings struct {
	Hostname string
	Locale   string
	Timezone string
}

// Layer returns the settings as files.
//
// The fstab is empty: what is mounted is decided by cc-guest in the initrd, from
// measured input.
func (s Settings) Layer() Layer {
	return Layer{Name: "config/os.conf", Entries: []Entry{
		File("/etc/hostname", 0o644, []byte(s.Hostname+"\n")),
		File("/etc/hosts", 0o644, fmt.Appendf(nil, "127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost ip6-loopback\n", s.Hostname)),
		File("/etc/locale.conf", 0o644, []byte("LANG="+s.Locale+"\n")),
		File("/etc/fstab", 0o644, []byte("# Nothing here: cc-guest mounts what the measured command line names.\n")),
		Link("/etc/localtime", "/usr/share/zoneinfo/"+s.Timezone),
		Link("/etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"),
	}}
}

// NeedsLocale tells whether the locale has to be generated; the C ones are
// part of libc.
func NeedsLocale(locale string) bool {
	return locale != "C" && locale != "POSIX" && !strings.EqualFold(locale, "C.UTF-8")
}

// localeHook is the customize hook that generates a locale such as
// de_DE.UTF-8 in the new tree.
func localeHook(locale string) string {
	name, charset, _ := strings.Cut(locale, ".")
	return fmt.Sprintf(`--customize-hook=chroot "$1" localedef -i %s -f %s %s`, quote(name), quote(charset), quote(locale))
}
