package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/atomicfile"
	"cc-base/tasks/build/recipient"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/program"
	"cc-base/tasks/rootfs"
)

func teeStage() stage {
	return stage{
		name:  "tee",
		title: "adding the guest program and TEE modules",
		keys:  append([]string{"SOURCE_DATE_EPOCH"}, guestKeys()...),
		reads: []string{"baseos"},
		facts: func(b *Build) (map[string]string, error) {
			guest, err := b.programDigest("overlays/cc-guest")
			if err != nil {
				return nil, err
			}
			facts := map[string]string{"cc-guest": guest}
			for _, name := range b.Config.Security.KeyRecipients {
				if facts["recipient:"+name], err = digest.File(b.configFile(name)); err != nil {
					return nil, err
				}
			}
			return facts, nil
		},
		cached: true,
		outputs: func(b *Build) []string {
			return []string{b.scratch("root.tar"), b.scratch("vmlinuz"), b.scratch("os-release"), b.scratch("kernel.json"), b.scratch("cc-guest")}
		},
		run: tee,
	}
}

// guestKeys are the settings that the guest reads: they are in the file that
// guestSettings writes.
func guestKeys() []string {
	return []string{
		"ETC_SIZE", "VAR_SIZE", "APP_MOUNT", "CONFIG_MOUNT", "DYNAMIC_MOUNT", "PERSISTENT_PATHS",
		"TPM_DEVICE", "TPM_PCR", "LUKS_CIPHER", "LUKS_KEY_SIZE", "LUKS_HASH", "CONSOLE_RECOVERY", "DYNAMIC_INTEGRITY",
		"KEY_ROTATION_INTERVAL", "OPERATOR_KEY", "TEE_KEY_SETTINGS", "KEY_RECIPIENTS",
	}
}

// configFile returns where a file that a setting names lies.
func (b *Build) configFile(name string) string { return filepath.Join(b.ConfigDir, name) }

// kernel is what later stages need to know of the image's kernel.
type kernel struct {
	Release string `json:"release"` // uname -r
}

func tee(ctx context.Context, b *Build) error {
	guest := b.scratch("cc-guest")
	b.log.event("tee", "compiling cc-guest")
	if err := program.Build(ctx, b.Host, b.Repo, "./overlays/cc-guest", guest); err != nil {
		return err
	}
	settings, err := b.guestSettings()
	if err != nil {
		return err
	}
	layer := rootfs.Layer{Name: "cc-guest", Entries: []rootfs.Entry{
		rootfs.File("/etc/modules-load.d/cc-tee.conf", 0o644, []byte("# TEE reports; each loads only where its hardware is.\nsev-guest\ntdx-guest\ntsm\n")),
		{Path: "/usr/lib/cc/cc-guest", Type: tar.TypeReg, Mode: 0o755, Source: guest},
		rootfs.File("/usr/lib/cc/guest.json", 0o644, settings),
	}}
	layer.Entries = append(layer.Entries, b.mountPoints()...)
	if err := rootfs.Merge(ctx, b.scratch("rootfs.tar"), b.scratch("root.tar"), nil, b.Config.OS.SourceDateEpoch, layer); err != nil {
		return err
	}
	release, err := b.extractKernel()
	if err != nil {
		return err
	}
	return b.keep("kernel.json", kernel{Release: release})
}

// mountPoints returns the folders of the read-only root that something is
// mounted on; those under /etc and /var are made at boot.
func (b *Build) mountPoints() []rootfs.Entry {
	paths := slices.Clone(b.Config.Disk.PersistentPaths)
	for _, p := range b.Config.Disk.Partitions {
		if p.Mount != "/" {
			paths = append(paths, p.Mount)
		}
	}
	var dirs []rootfs.Entry
	for _, p := range paths {
		if p != "" && !strings.HasPrefix(p, "/etc/") && !strings.HasPrefix(p, "/var/") {
			dirs = append(dirs, rootfs.Dir(p, 0o755))
		}
	}
	return dirs
}

// guestSettings returns the file that tells cc-guest what to mount and what its
// keys are bound to.
func (b *Build) guestSettings() ([]byte, error) {
	s := settings.Settings{
		EtcSize: b.Config.Disk.EtcSize, VarSize: b.Config.Disk.VarSize,
		Persistent: append([]string{}, b.Config.Disk.PersistentPaths...),
	}
	for _, name := range []string{"app", "config"} {
		p, ok := b.Config.Partition(name)
		if !ok {
			return nil, fmt.Errorf("the disk table has no %s", name)
		}
		s.Mounts = append(s.Mounts, settings.Mount{Device: "/dev/mapper/" + p.Label, Path: p.Mount, Options: p.Options})
	}
	dynamic, ok := b.Config.Partition("dynamic")
	if !ok {
		return nil, errors.New("the disk table has no dynamic")
	}
	s.Dynamic = settings.Dynamic{Mount: dynamic.Mount, Options: dynamic.Options}
	var err error
	if s.Keys, err = b.guestKeySettings(); err != nil {
		return nil, err
	}
	return settings.Encode(s)
}

func (b *Build) guestKeySettings() (settings.Keys, error) {
	c, identity := b.Config.Security, b.Config.TEE.Keys
	k := settings.Keys{
		// /dev/tpm0 can be open once only; its resource manager is for everybody.
		TPMDevice:       "/dev/tpmrm" + strings.TrimPrefix(strings.TrimPrefix(c.TPMDevice, "/dev/tpm"), "rm"),
		PCRs:            []int{},
		LUKS:            settings.LUKS{Cipher: c.LUKSCipher, KeyBits: c.LUKSKeySize, Hash: c.LUKSHash},
		ConsoleRecovery: c.ConsoleRecovery, DynamicIntegrity: c.DynamicIntegrity,
		RotationInterval: int64(c.KeyRotationInterval / time.Second), OperatorKey: c.OperatorKey,
		Identity:           settings.Identity{Dir: identity.Dir, Size: identity.Size, Algo: identity.Algo},
		RecoveryRecipients: []string{},
	}
	for _, n := range c.TPMPCR {
		if n != 12 && n != 13 { // bound always
			k.PCRs = append(k.PCRs, n)
		}
	}
	for _, name := range c.KeyRecipients {
		r, err := recipient.Read(b.configFile(name))
		if err != nil {
			return k, fmt.Errorf("%s: %w", name, err)
		}
		text, err := r.Armoured()
		if err != nil {
			return k, fmt.Errorf("%s: %w", name, err)
		}
		k.RecoveryRecipients = append(k.RecoveryRecipients, text)
	}
	return k, nil
}

var vmlinuz = regexp.MustCompile(`^/boot/vmlinuz-(.+)$`)

// extractKernel copies kernel and os-release out of the tree and returns the
// kernel's release. Exactly one kernel must be there: with two it would be
// chance which one boots.
func (b *Build) extractKernel() (string, error) {
	f, err := os.Open(b.scratch("root.tar"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	var releases []string
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		p := path.Clean("/" + h.Name)
		to := ""
		if m := vmlinuz.FindStringSubmatch(p); m != nil && h.Typeflag == tar.TypeReg {
			releases = append(releases, m[1])
			to = b.scratch("vmlinuz")
		}
		if p == "/usr/lib/os-release" {
			to = b.scratch("os-release")
		}
		if to == "" {
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return "", err
		}
		if err := atomicfile.Write(to, 0o644, data); err != nil {
			return "", err
		}
	}
	if len(releases) != 1 {
		return "", fault.Newf(fault.BootImage, "the image must hold exactly one kernel, it has %d: %s", len(releases), strings.Join(releases, " "))
	}
	return releases[0], nil
}
