package conf

import "strings"

// When says at which point a key is read, and so when a change of it counts.
type When string

// A key is read once, at the latest of these.
const (
	AtBuild   When = "build"   // baked into the image: build again
	AtInstall When = "install" // read by the installer: install again
	AtRun     When = "run"     // read when the VM is defined: stop, change, start
)

// key is one row of the table that everything here comes from: parser,
// defaults, validation, documentation and the shipped files.
type key struct {
	file        string   // base name of the file it belongs to
	name        string   // as written
	def         []string // default, as words
	allowed     string   // for messages and documentation
	meaning     string   // what it is
	consequence string   // what changing it does
	when        When
	field
}

// file is one of the configuration files and what it is about.
type file struct {
	name, about string
}

// files returns the configuration files in the order in which people read them.
func files() []file {
	return []file{
		{"os.conf", "The distribution inside the image."},
		{"tee.conf", "The trusted execution environment (TEE): AMD SEV-SNP, Intel TDX, or none."},
		{"security.conf", "Volume encryption, the guest's TPM and hardening."},
		{"qemu.conf", "The virtual machine on the host."},
		{"partition.conf", "The disk: the one table that GPT, mounts and encryption come from."},
		{"apps.conf", "What the application volume carries."},
	}
}

// Files returns the names of the configuration files in the order in which people
// read them.
func Files() []string {
	var names []string
	for _, f := range files() {
		names = append(names, f.name)
	}
	return names
}

// table returns every key, grouped by file in the order of [files].
func table() []key {
	var all []key
	for _, rows := range [][]key{
		inFile("os.conf", osKeys()),
		inFile("tee.conf", teeKeys()),
		inFile("security.conf", securityKeys()),
		inFile("qemu.conf", qemuKeys()),
		inFile("partition.conf", diskKeys()),
		inFile("apps.conf", appsKeys()),
	} {
		all = append(all, rows...)
	}
	return all
}

func inFile(name string, rows []key) []key {
	for i := range rows {
		rows[i].file = name
	}
	return rows
}

// Keys returns the name of every key in table order.
func Keys() []string {
	var names []string
	for _, k := range table() {
		names = append(names, k.name)
	}
	return names
}

func find(name string) (key, bool) {
	for _, k := range table() {
		if k.name == name {
			return k, true
		}
	}
	return key{}, false
}

// Value returns the effective value of a key in one canonical spelling: equal
// settings give equal text however they were written. An array's elements are
// joined by one space; no element contains one. A name that is not in [Keys]
// gives "".
func (c Config) Value(name string) string {
	k, ok := find(name)
	if !ok {
		return ""
	}
	return strings.Join(k.get(&c), " ")
}

// Subset returns the effective values of the named keys, as [Config.Value]
// does: what a build stage depends on, ready to be hashed.
func (c Config) Subset(names ...string) map[string]string {
	m := make(map[string]string, len(names))
	for _, n := range names {
		m[n] = c.Value(n)
	}
	return m
}

// Origin returns where a key was set, as file:line, or "default".
func (c Config) Origin(name string) string {
	if o := c.origin[name]; o != "" {
		return o
	}
	return "default"
}

// shell writes the value words of a key as one line of shell syntax.
func (k key) shell(words []string) string {
	if k.name == keySettingsName {
		return k.name + "=( " + strings.Join(quoteSettings(words), " ") + " )"
	}
	if !k.array {
		return k.name + `="` + words[0] + `"`
	}
	if len(words) == 0 {
		return k.name + "=( )"
	}
	return k.name + "=( " + strings.Join(words, " ") + " )"
}
