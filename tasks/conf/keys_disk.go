package conf

import "fmt"

func diskKeys() []key {
	const fits = `auto or a size such as 512M or 2G`
	return []key{
		{name: "ESP_SIZE", def: []string{"auto"}, allowed: "auto, or 64M to 4G in whole M", when: AtBuild,
			meaning:     "Size of the EFI system partition, which holds one signed boot image. auto fits it.",
			consequence: "Too small for the boot image is an error before anything is written.",
			field:       size(partSize(0), true, 64*mib, 4*gib, mib)},
		{name: "ROOT_SIZE", def: []string{"auto"}, allowed: fits + ", at most 64G", when: AtBuild,
			meaning:     "Size of the root volume, read-only. auto fits its content.",
			consequence: "A larger one only leaves free space that nothing can use.",
			field:       size(partSize(1), true, 64*mib, 64*gib, mib)},
		{name: "ROOT_ENCRYPT", def: []string{"yes"}, allowed: "yes, no", when: AtBuild,
			meaning:     "Encrypts the root volume (LUKS2).",
			consequence: "no leaves it readable to whoever has the disk; changes are still found (verity).",
			field:       yesNo(partEncrypt(1))},
		{name: "ROOT_VERITY", def: []string{"yes"}, allowed: "yes", when: AtBuild,
			meaning:     "Checks every block of the root volume against a measured hash (dm-verity).",
			consequence: "It cannot be switched off.",
			field:       always(partVerity(1), true, "without it a changed disk would boot unnoticed")},
		{name: "APP_SIZE", def: []string{"auto"}, allowed: fits + ", at most 256G", when: AtBuild,
			meaning:     "Size of the application volume, read-only. auto fits its content.",
			consequence: "A larger one only leaves free space that nothing can use.",
			field:       size(partSize(2), true, 16*mib, 256*gib, mib)},
		{name: "APP_ENCRYPT", def: []string{"yes"}, allowed: "yes, no", when: AtBuild,
			meaning:     "Encrypts the application volume (LUKS2).",
			consequence: "no leaves it readable to whoever has the disk; changes are still found (verity).",
			field:       yesNo(partEncrypt(2))},
		{name: "APP_VERITY", def: []string{"yes"}, allowed: "yes", when: AtBuild,
			meaning:     "Checks every block of the application volume against a measured hash (dm-verity).",
			consequence: "It cannot be switched off.",
			field:       always(partVerity(2), true, "without it changed applications would run unnoticed")},
		{name: "APP_MOUNT", def: []string{"/opt/cc"}, allowed: "a folder under /opt or /srv", when: AtBuild,
			meaning:     "Where the application volume appears in the guest.",
			consequence: "Units and scripts of your own have to use the same path.",
			field:       text(partMount(2), below("/opt", "/srv"))},
		{name: "CONFIG_SIZE", def: []string{"auto"}, allowed: "auto, or 1M to 1G in whole M", when: AtBuild,
			meaning:     "Size of the volume that carries these files as built, read-only. auto fits them.",
			consequence: "A larger one only leaves free space that nothing can use.",
			field:       size(partSize(3), true, mib, gib, mib)},
		{name: "CONFIG_ENCRYPT", def: []string{"no"}, allowed: "no", when: AtBuild,
			meaning:     "The configuration volume is not encrypted: it holds no secret.",
			consequence: "It cannot be switched on.",
			field:       always(partEncrypt(3), false, "the guest needs the configuration to find the keys that would open it")},
		{name: "CONFIG_VERITY", def: []string{"yes"}, allowed: "yes", when: AtBuild,
			meaning:     "Checks every block of the configuration volume against a measured hash (dm-verity).",
			consequence: "It cannot be switched off.",
			field:       always(partVerity(3), true, "without it the host could change the configuration unnoticed")},
		{name: "CONFIG_MOUNT", def: []string{"/etc/cc/config"}, allowed: "a folder under /etc/cc", when: AtBuild,
			meaning:     "Where the configuration appears in the guest.",
			consequence: "Units and scripts of your own have to use the same path.",
			field:       text(partMount(3), below("/etc/cc"))},
		{name: "DYNAMIC_SIZE", def: []string{"auto"}, allowed: "auto, or 64M to 64T in whole M", when: AtInstall,
			meaning:     "Size of the writable volume, made in the guest at first boot. auto takes the rest of the disk.",
			consequence: "The partition table is measured, so it cannot grow later without a new installation.",
			field:       size(partSize(4), true, 64*mib, 64*tib, mib)},
		{name: "DYNAMIC_ENCRYPT", def: []string{"yes"}, allowed: "yes", when: AtBuild,
			meaning:     "Encrypts the writable volume (LUKS2) with a key that never leaves the guest.",
			consequence: "It cannot be switched off.",
			field:       always(partEncrypt(4), true, "data that the guest writes would be open to the host")},
		{name: "DYNAMIC_MOUNT", def: []string{"/mnt/dynamic"}, allowed: "a folder under /mnt or /srv", when: AtBuild,
			meaning:     "Where the writable volume appears in the guest.",
			consequence: "The persistent paths below are folders of it.",
			field:       text(partMount(4), below("/mnt", "/srv"))},
		{name: "VAR_SIZE", def: []string{"256M"}, allowed: "16M to 64G in whole M", when: AtBuild,
			meaning:     "How much memory /var may take; what is not persistent there is gone after a reboot.",
			consequence: "A full /var stops what writes there, not the VM.",
			field:       size(func(c *Config) *int64 { return &c.Disk.VarSize }, false, 16*mib, 64*gib, mib)},
		{name: "ETC_SIZE", def: []string{"32M"}, allowed: "4M to 1G in whole M", when: AtBuild,
			meaning:     "How much memory changes in /etc may take; they are gone after a reboot.",
			consequence: "A full /etc stops what writes there, not the VM.",
			field:       size(func(c *Config) *int64 { return &c.Disk.EtcSize }, false, 4*mib, gib, mib)},
		{name: "PERSISTENT_PATHS", def: []string{"/var/log", "/var/lib/cc"},
			allowed: "folders under /etc, /home, /opt, /root, /srv or /var, but not in /etc/systemd, /etc/cc/config or /opt/cc, and none inside another", when: AtBuild,
			meaning:     "Folders that survive a reboot; they live on the writable volume.",
			consequence: "Whatever steers the system must not be among them: it would escape measurement.",
			field:       list(func(c *Config) *[]string { return &c.Disk.PersistentPaths }, nil, persistent)},
	}
}

func partSize(i int) func(*Config) *int64 {
	return func(c *Config) *int64 { return &c.Disk.Partitions[i].Size }
}

func partEncrypt(i int) func(*Config) *bool {
	return func(c *Config) *bool { return &c.Disk.Partitions[i].Encrypt }
}

func partVerity(i int) func(*Config) *bool {
	return func(c *Config) *bool { return &c.Disk.Partitions[i].Verity }
}

func partMount(i int) func(*Config) *string {
	return func(c *Config) *string { return &c.Disk.Partitions[i].Mount }
}

// below returns a check for a path strictly below one of dirs.
func below(dirs ...string) func(string) error {
	return func(s string) error {
		if err := absolute(s); err != nil {
			return err
		}
		for _, d := range dirs {
			if s != d && under(s, d) {
				return nil
			}
		}
		return fmt.Errorf("%s cannot be a mount point here", s)
	}
}

// persistent accepts a path whose content may come from a volume that is not
// measured. Reasons are part of the message: people need to know why.
func persistent(s string) error {
	if err := absolute(s); err != nil {
		return err
	}
	steers := []struct{ dir, why string }{
		{"/etc/systemd", "units there decide what runs"},
		{"/usr", "programs there are measured"},
		{"/opt/cc", "applications there are measured"},
		{"/boot", "what boots is measured"},
		{"/etc/cc/config", "the configuration is measured"},
	}
	for _, st := range steers {
		if under(s, st.dir) {
			return fmt.Errorf("%s must not be persistent: %s", s, st.why)
		}
		if under(st.dir, s) {
			return fmt.Errorf("%s must not be persistent: it contains %s, and %s", s, st.dir, st.why)
		}
	}
	for _, d := range []string{"/etc", "/home", "/opt", "/root", "/srv", "/var"} {
		if under(s, d) {
			return nil
		}
	}
	return fmt.Errorf("%s cannot be persistent", s)
}
