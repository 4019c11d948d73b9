package conf

func qemuKeys() []key {
	return []key{
		{name: "QEMU_MACHINE", def: []string{"q35"}, allowed: "q35", when: AtInstall,
			meaning:     "QEMU machine type.",
			consequence: "Confidential VMs and GPU assignment exist for q35 only.",
			field:       oneOf(func(c *Config) *string { return &c.QEMU.Machine }, "q35")},
		{name: "QEMU_CPU_TYPE", def: []string{"host-passthrough"}, allowed: "host-passthrough, host-model, max", when: AtInstall,
			meaning:     "CPU of plain and TDX guests; SEV-SNP guests get TEE_CPU_MODEL.",
			consequence: "host-passthrough is fastest and ties the VM to this kind of processor.",
			field: oneOf(func(c *Config) *string { return &c.QEMU.CPUType },
				"host-passthrough", "host-model", "max")},
		{name: "QEMU_FIRMWARE", def: []string{"/usr/share/OVMF/OVMF_CODE.fd"}, allowed: "an absolute path on the host", when: AtInstall,
			meaning:     "UEFI firmware of plain guests; where the file is missing the installer names the packaged one it takes.",
			consequence: "SEV-SNP and TDX guests use the measured firmware that comes with the installer.",
			field:       text(func(c *Config) *string { return &c.QEMU.Firmware }, absolute)},
		{name: "GPU_SETTINGS_FILE", def: []string{"/etc/cc/qemu/gpu_settings"}, allowed: "an absolute path on the host", when: AtInstall,
			meaning:     "File on the host that says which GPU the VM gets.",
			consequence: "It is read when the VM is defined; without the file the installer chooses.",
			field:       text(func(c *Config) *string { return &c.QEMU.GPUSettingsFile }, absolute)},
		{name: "NETWORK_SETTINGS_FILE", def: []string{"/etc/cc/qemu/network_settings"}, allowed: "an absolute path on the host", when: AtInstall,
			meaning:     "File on the host that may override the two network settings below.",
			consequence: "It is read when the VM is defined; without the file the settings here count.",
			field:       text(func(c *Config) *string { return &c.QEMU.NetworkSettingsFile }, absolute)},
		{name: "NETWORK_TYPE", def: []string{"bridge"}, allowed: "bridge, nat", when: AtRun,
			meaning:     "bridge gives the VM its own address in the host's network, nat hides it behind the host.",
			consequence: "bridge needs a bridge on the host.",
			field:       oneOf(func(c *Config) *string { return &c.QEMU.NetworkType }, "bridge", "nat")},
		{name: "NETWORK_ISOLATION", def: []string{"yes"}, allowed: "yes, no", when: AtRun,
			meaning:     "Keeps the VM from talking to other VMs on the same bridge.",
			consequence: "no is needed when several VMs form a cluster on one host.",
			field:       yesNo(func(c *Config) *bool { return &c.QEMU.NetworkIsolation })},
	}
}

func appsKeys() []key {
	return []key{
		{name: "APPS", def: []string{"cc-attest"}, allowed: "cc-attest", when: AtBuild,
			meaning:     "Applications on the application volume. cc-attest shows what the VM can prove about itself.",
			consequence: "The volume is measured: another set gives another root hash.",
			field:       list(func(c *Config) *[]string { return &c.Apps.Apps }, []string{"cc-attest"}, nil)},
	}
}
