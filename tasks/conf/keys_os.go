package conf

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

func osKeys() []key {
	return []key{
		{name: "DISTRIBUTION", def: []string{"debian"}, allowed: "debian, ubuntu (with EXPERIMENTAL=yes)", when: AtBuild,
			meaning:     "Distribution inside the image.",
			consequence: "Debian is the proven one; Ubuntu images have been planned, not proven.",
			field:       oneOf(func(c *Config) *string { return &c.OS.Distribution }, "debian", "ubuntu")},
		{name: "SUITE", def: []string{"trixie"}, allowed: "debian: trixie, forky, sid; ubuntu: noble, plucky, questing, resolute", when: AtBuild,
			meaning:     "Release of the distribution, by its code name.",
			consequence: "Every package, the kernel and so every measurement changes.",
			field:       suiteField(func(c *Config) *string { return &c.OS.Suite }, "debian", "ubuntu")},
		{name: "MIRROR", def: []string{""}, allowed: `"" or a URL (http, https, file, copy) without user name or password`, when: AtBuild,
			meaning:     "Package mirror; empty uses the build machine's own apt configuration.",
			consequence: "Packages stay authenticated by the archive's key whatever the mirror.",
			field:       text(func(c *Config) *string { return &c.OS.Mirror }, mirror)},
		{name: "SNAPSHOT", def: []string{""}, allowed: `"" or a UTC time such as 20260101T000000Z`, when: AtBuild,
			meaning:     "Moment whose packages are used; empty takes the newest.",
			consequence: "Set it to build the same image again next year; the image then lacks later security fixes.",
			field:       text(func(c *Config) *string { return &c.OS.Snapshot }, snapshot)},
		{name: "COMPONENTS", def: []string{"main"}, allowed: "debian: main contrib non-free non-free-firmware; ubuntu: main restricted universe multiverse; main is required", when: AtBuild,
			meaning:     "Archive components that packages may come from.",
			consequence: "Components beyond main bring software that is not free, or not supported by the distribution.",
			field:       list(func(c *Config) *[]string { return &c.OS.Components }, allComponents(), nil)},
		{name: "PACKAGES", def: []string{}, allowed: "names of packages of the distribution", when: AtBuild,
			meaning:     "Packages added to the built-in base set.",
			consequence: "Each one enlarges the image and what has to be trusted.",
			field: list(func(c *Config) *[]string { return &c.OS.Packages }, nil,
				matching(`[a-z0-9][a-z0-9+.-]+`, "a package name"))},
		{name: "KERNEL", def: []string{"auto"}, allowed: "auto, cloud, generic", when: AtBuild,
			meaning:     "Kernel package: cloud is small and made for virtual machines, generic has every driver. auto is cloud.",
			consequence: "generic makes the image a good deal larger.",
			field:       kernelField()},
		{name: "TOOLS_SUITE", def: []string{"trixie"}, allowed: "trixie, forky, sid", when: AtBuild,
			meaning:     "Debian release that the build's own tools come from, whatever is inside the image.",
			consequence: "A newer one brings newer mkfs, cryptsetup and ukify, and so other bytes.",
			field:       suiteField(func(c *Config) *string { return &c.OS.ToolsSuite }, "debian")},
		{name: "LOCKED", def: []string{"no"}, allowed: "yes, no", when: AtBuild,
			meaning:     "Installs exactly the packages of packages.lock beside this file, which `mage lock` writes.",
			consequence: "A build ends, with every difference named, when the mirror no longer has them: docs/lock.md.",
			field:       yesNo(func(c *Config) *bool { return &c.OS.Locked })},
		{name: "HOSTNAME", def: []string{"cc-base"}, allowed: "1 to 63 of a-z 0-9 -, no - at either end", when: AtBuild,
			meaning:     "Host name of the guest.",
			consequence: "It is in the root file system, so it changes the root hash.",
			field: text(func(c *Config) *string { return &c.OS.Hostname },
				matching(`[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`, "a host name"))},
		{name: "LOCALE", def: []string{"C.UTF-8"}, allowed: "C.UTF-8 or a UTF-8 locale such as de_DE.UTF-8", when: AtBuild,
			meaning:     "Language of messages in the guest.",
			consequence: "Anything but C.UTF-8 adds the locales package.",
			field: text(func(c *Config) *string { return &c.OS.Locale },
				matching(`C\.UTF-8|[a-z]{2,3}_[A-Z]{2}\.UTF-8`, "a UTF-8 locale"))},
		{name: "TIMEZONE", def: []string{"UTC"}, allowed: "UTC or a name of the time zone database such as Europe/Berlin", when: AtBuild,
			meaning:     "Time zone of the guest.",
			consequence: "Logs are written in it; UTC keeps those of several machines comparable.",
			field: text(func(c *Config) *string { return &c.OS.Timezone },
				matching(`[A-Z][A-Za-z0-9_+-]*(/[A-Z][A-Za-z0-9_+-]*){0,2}`, "a time zone"))},
		{name: "SOURCE_DATE_EPOCH", def: []string{"1767225600"}, allowed: "seconds since 1970, 315532800 (1980, the first FAT can store) to 4294967295", when: AtBuild,
			meaning:     "The time stamp of every file in the image, in seconds since 1970 (default: 2026-01-01).",
			consequence: "It is fixed so that the same inputs give the same bytes.",
			field:       number(func(c *Config) *int64 { return &c.OS.SourceDateEpoch }, 315532800, 4294967295)},
		{name: "EXPERIMENTAL", def: []string{"no"}, allowed: "yes, no", when: AtBuild,
			meaning:     "Permits what has not been proven by a boot, such as Ubuntu guests.",
			consequence: "You are the first to try it.",
			field:       yesNo(func(c *Config) *bool { return &c.OS.Experimental })},
	}
}

// suite is one release that we know something about.
type suite struct {
	distribution, name string
	refused            string // why it cannot be used, "" when it can
}

// suites is the table of releases; what is not in it is refused as unknown.
func suites() []suite {
	const noUKI = "it has no tooling for unified kernel images (systemd-ukify)"
	const moves = "it names another release every few years, so a build could not be repeated"
	return []suite{
		{"debian", "buster", noUKI}, {"debian", "bullseye", noUKI}, {"debian", "bookworm", noUKI},
		{"debian", "trixie", ""}, {"debian", "forky", ""}, {"debian", "sid", ""},
		{"debian", "oldstable", moves}, {"debian", "stable", moves}, {"debian", "testing", moves},
		{"debian", "unstable", "write sid"},
		{"ubuntu", "bionic", noUKI}, {"ubuntu", "focal", noUKI}, {"ubuntu", "jammy", noUKI},
		{"ubuntu", "noble", ""}, {"ubuntu", "plucky", ""}, {"ubuntu", "questing", ""}, {"ubuntu", "resolute", ""},
	}
}

func suiteField(at func(*Config) *string, distributions ...string) field {
	var usable []string
	reasons := map[string]string{}
	for _, s := range suites() {
		if !slices.Contains(distributions, s.distribution) {
			continue
		}
		if s.refused == "" {
			usable = append(usable, s.name)
		} else {
			reasons[s.name] = s.refused
		}
	}
	f := text(at, func(name string) error {
		if why := reasons[name]; why != "" {
			return fmt.Errorf("%s is refused: %s", name, why)
		}
		if !slices.Contains(usable, name) {
			return fmt.Errorf("%q is not known", name)
		}
		return nil
	})
	f.enum = usable
	return f
}

// distributionOf returns which distribution a usable suite belongs to.
func distributionOf(name string) string {
	for _, s := range suites() {
		if s.name == name {
			return s.distribution
		}
	}
	return ""
}

func components(distribution string) []string {
	if distribution == "ubuntu" {
		return []string{"main", "restricted", "universe", "multiverse"}
	}
	return []string{"main", "contrib", "non-free", "non-free-firmware"}
}

func allComponents() []string {
	return append(components("debian"), components("ubuntu")[1:]...)
}

func kernelField() field {
	f := oneOf(func(c *Config) *string { return &c.OS.Kernel }, "auto", "cloud", "generic")
	either := f.set
	f.set = func(c *Config, words []string, bad report) {
		either(c, words, bad)
		if c.OS.Kernel == "auto" {
			c.OS.Kernel = "cloud"
		}
	}
	return f
}

var urlText = regexp.MustCompile(`^[A-Za-z0-9:/._~%+@\[\]-]+$`)

func mirror(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || !urlText.MatchString(s):
		return fmt.Errorf("the value is not a URL") // not repeated: it may hold a password
	case u.User != nil:
		// Shown and stored in clear in many places; say so without repeating it.
		return fmt.Errorf("a user name or password in the URL would end up in logs and in the image")
	case u.Scheme == "http" || u.Scheme == "https":
		if u.Hostname() == "" {
			return fmt.Errorf("%q has no host", s)
		}
	case u.Scheme == "file" || u.Scheme == "copy":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") {
			return fmt.Errorf("%q has no absolute path", s)
		}
	case u.Scheme == "":
		return fmt.Errorf("%q does not say how to fetch from it, such as https://", s)
	default:
		return fmt.Errorf("%q has a scheme that mmdebstrap cannot use", s)
	}
	return nil
}

func snapshot(s string) error {
	if s == "" {
		return nil
	}
	const form = "20060102T150405Z"
	t, err := time.Parse(form, s)
	if err != nil || t.Format(form) != s {
		return fmt.Errorf("%q is not a time", s)
	}
	return nil
}
