// Package settings is the file that the build leaves for cc-guest: what the
// guest mounts, how large its writable parts may grow, and what its volumes are
// bound to and unlocked by.
//
// The file lies in the initrd and in the root image, both of which are
// measured, so its values are trusted; its form is still checked, because a
// mistake in it should fail the build and not the boot.
package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Path is where the file lies, in the initrd and in the root image.
const Path = "/usr/lib/cc/guest.json"

const (
	// minSize is what systemd needs to boot at all; a smaller cap would only
	// show as services that fail.
	minSize = 1 << 20
	// maxSize is far above any sensible cap (64 GiB).
	maxSize = 64 << 30
)

// Settings is the content of the file.
type Settings struct {
	EtcSize int64   `json:"etcSize"` // cap of what may be changed under /etc, in bytes
	VarSize int64   `json:"varSize"` // cap of /var, in bytes
	Mounts  []Mount `json:"mounts"`  // in the order in which they are mounted

	Dynamic    Dynamic  `json:"dynamic"`
	Persistent []string `json:"persistent"` // folders that live on the writable volume, none inside another
	Keys       Keys     `json:"keys"`
}

// Mount is one erofs volume, mounted read-only.
type Mount struct {
	Device  string   `json:"device"`  // /dev/mapper/…
	Path    string   `json:"path"`    // in the running system
	Options []string `json:"options"` // ro, nosuid, nodev, noexec; ro is required
}

// Dynamic is the writable volume, which the guest makes at its first boot.
type Dynamic struct {
	Mount   string   `json:"mount"`   // in the running system
	Options []string `json:"options"` // of nosuid, nodev, noexec, the first two required
}

// Default returns the settings of the standard layout.
func Default() Settings {
	return Settings{
		EtcSize: 32 << 20,
		VarSize: 256 << 20,
		Mounts: []Mount{
			{Device: "/dev/mapper/cc-app", Path: "/opt/cc", Options: []string{"ro", "nosuid", "nodev"}},
			{Device: "/dev/mapper/cc-config", Path: "/etc/cc/config", Options: []string{"ro", "nosuid", "nodev", "noexec"}},
		},
		Dynamic:    Dynamic{Mount: "/mnt/dynamic", Options: []string{"nosuid", "nodev", "noexec"}},
		Persistent: []string{"/var/log", "/var/lib/cc"},
		Keys: Keys{
			TPMDevice: "/dev/tpmrm0", PCRs: []int{0, 1, 2, 3, 7}, LUKS: LUKS{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha512"},
			DynamicIntegrity: "auto", RotationInterval: 30 * 24 * 60 * 60,
			Identity: Identity{Dir: "/etc/cc/keys", Size: 4096, Algo: "rsa"}, RecoveryRecipients: []string{},
		},
	}
}

// Encode checks s and returns the file's bytes, the same for equal settings.
func Encode(s Settings) ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}

// Decode reads the file; an unknown key or anything after the object is an
// error.
func Decode(text []byte) (Settings, error) {
	var s Settings
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return Settings{}, fmt.Errorf("reading settings: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Settings{}, errors.New("reading settings: more than one object")
	}
	return s, s.Validate()
}

// Validate returns every mistake in s.
func (s Settings) Validate() error {
	var errs []error
	errs = append(errs, checkSize("etcSize", s.EtcSize), checkSize("varSize", s.VarSize))
	paths := make(map[string]bool)
	for _, m := range s.Mounts {
		if err := m.validate(); err != nil {
			errs = append(errs, err)
		}
		if paths[m.Path] {
			errs = append(errs, fmt.Errorf("mount %s: the path is there twice", m.Path))
		}
		paths[m.Path] = true
	}
	errs = append(errs, s.Dynamic.validate(paths), s.checkPersistent(), s.Keys.validate())
	return errors.Join(errs...)
}

func (d Dynamic) validate(taken map[string]bool) error {
	if !cleanPath(d.Mount) {
		return fmt.Errorf("dynamic: the mount point %q is not absolute and clean", d.Mount)
	}
	if taken[d.Mount] {
		return fmt.Errorf("dynamic: %s is another volume's mount point", d.Mount)
	}
	for _, option := range d.Options {
		if !slices.Contains([]string{"nosuid", "nodev", "noexec"}, option) {
			return fmt.Errorf("dynamic: unknown option %q", option)
		}
	}
	// Nothing on this volume is measured: a device node or a setuid program
	// there would be a way around everything that is.
	for _, option := range []string{"nosuid", "nodev"} {
		if !slices.Contains(d.Options, option) {
			return fmt.Errorf("dynamic: the option %s is missing", option)
		}
	}
	return nil
}

// checkPersistent looks for paths that would hide each other or a volume. What
// else must not be persistent is the configuration's rule.
func (s Settings) checkPersistent() error {
	volumes := []string{s.Dynamic.Mount}
	for _, m := range s.Mounts {
		volumes = append(volumes, m.Path)
	}
	for i, p := range s.Persistent {
		if !cleanPath(p) {
			return fmt.Errorf("persistent: the path %q is not absolute and clean", p)
		}
		for _, other := range append(volumes, s.Persistent[:i]...) {
			if within(p, other) || within(other, p) {
				return fmt.Errorf("persistent: %s and %s lie inside each other", p, other)
			}
		}
	}
	return nil
}

// cleanPath tells whether p is an absolute path below / in its only spelling.
func cleanPath(p string) bool { return path.IsAbs(p) && path.Clean(p) == p && p != "/" }

// within tells whether p is dir or lies below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func checkSize(name string, size int64) error {
	if size < minSize || size > maxSize {
		return fmt.Errorf("%s: %d is not between %d and %d", name, size, int64(minSize), int64(maxSize))
	}
	return nil
}

func (m Mount) validate() error {
	name, mapped := strings.CutPrefix(m.Device, "/dev/mapper/")
	if !mapped || name == "" || strings.Contains(name, "/") || name == ".." {
		return fmt.Errorf("mount %s: %q is not a mapped device", m.Path, m.Device)
	}
	if !cleanPath(m.Path) {
		return fmt.Errorf("mount %s: the path is not absolute and clean", m.Path)
	}
	for _, option := range m.Options {
		if !slices.Contains([]string{"ro", "nosuid", "nodev", "noexec"}, option) {
			return fmt.Errorf("mount %s: unknown option %q", m.Path, option)
		}
	}
	if !slices.Contains(m.Options, "ro") {
		return fmt.Errorf("mount %s: the option ro is missing", m.Path)
	}
	return nil
}
