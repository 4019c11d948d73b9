package validation_test

// What green does not prove: the folders here are made by the tests, nothing in
// them boots and no volume in them can be opened. That the real artefacts pass
// is for the artefact tests, that cryptsetup, systemd-stub and the guest agree
// with these readers for the boots.

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/installertest"
	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/hw/hwtest"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/tee/ovmf/ovmftest"
	"cc-base/validation"
	"cc-base/validation/check"
	"cc-base/validation/guest"
)

// host has one free disk of 100 GiB.
func host() hwtest.Host {
	return hwtest.New().Mount("0:21", "/proc", "proc", "proc").Disk("sda", "8:0", 100*hwtest.GiB)
}

// volume is the metadata of the volumes with salts and a digest as long as
// those of cryptsetup.
func volume() string {
	return strings.ReplaceAll(installertest.LUKS2JSON(), `"AAAA"`, `"`+strings.Repeat("A", 43)+`="`)
}

// folder is an installer in which every check passes.
func folder() *installertest.Folder {
	f := installertest.New()
	for _, label := range []string{"cc-root", "cc-app"} {
		copy(f.Disk.Bytes[f.Partition(label).Start:], installertest.LUKS2(volume()))
	}
	f.Digest()
	f.Machines.TEE = "auto"
	f.Files[measurements.SNPFirmware], f.Files[measurements.TDXFirmware] = ovmftest.SNP().Image(), ovmftest.TDX().Image()
	return f
}

// keepRows makes the folder's measurements those of what is in it now, whatever
// is changed afterwards. A failure shows as a mutant that is not found.
func keepRows(f *installertest.Folder) {
	dir, err := os.MkdirTemp("", "rows")
	if err != nil {
		return
	}
	defer os.RemoveAll(dir)
	if err := f.Write(dir); err != nil {
		return
	}
	for _, name := range []string{measurements.File, measurements.RVPSFile} {
		f.Files[name], _ = os.ReadFile(filepath.Join(dir, name))
	}
}

// run writes the folder, lets after change it on disk, and runs every check.
func run(t *testing.T, root fs.FS, f *installertest.Folder, after func(dir string)) check.Report {
	t.Helper()
	dir := t.TempDir()
	if err := f.Write(dir); err != nil {
		t.Fatal(err)
	}
	if after != nil {
		after(dir)
	}
	env := &validation.Env{Root: root, Dir: dir}
	defer env.Close()
	return check.Run(t.Context(), check.Host, validation.All(env))
}

func TestAWholeInstallerPassesEveryCheck(t *testing.T) {
	t.Parallel()
	report := run(t, host(), folder(), nil)
	for _, r := range report.Results {
		if r.Status != check.Pass {
			t.Errorf("%s: %s: %s", r.ID, r.Status, r.Detail)
		}
	}
	if report.Failed() {
		t.Error("the report says failed")
	}
}

// overwrite puts other content into a file of the folder. A failure shows as a
// mutant that is not found.
func overwrite(dir, name string) {
	_ = os.WriteFile(filepath.Join(dir, name), []byte("other"), 0o600)
}

// mutant is an installer that one check must find.
type mutant struct {
	name   string
	id     string
	status check.Status
	change func(f *installertest.Folder)
	after  func(dir string)
	root   fs.FS
}

func mutants() []mutant {
	fails := func(id, name string, change func(f *installertest.Folder)) mutant {
		return mutant{name: name, id: id, status: check.Fail, change: change}
	}
	// What the manifest itself rules out stops every check that reads it: an
	// error, which fails the run like a failed check.
	malformed := func(id, name string, change func(f *installertest.Folder)) mutant {
		return mutant{name: name, id: id, status: check.Error, change: change}
	}
	onDisk := func(id, name string, after func(dir string)) mutant {
		return mutant{name: name, id: id, status: check.Fail, after: after}
	}
	luks := func(name, old, new string) mutant {
		return fails("keys.headers", name, func(f *installertest.Folder) {
			at := f.Partition("cc-app").Start
			copy(f.Disk.Bytes[at:], installertest.LUKS2(strings.Replace(volume(), old, new, 1)))
			f.Digest()
		})
	}
	return []mutant{
		onDisk("bundle.checksums", "a changed file", func(dir string) { overwrite(dir, "config/tee.conf") }),
		onDisk("bundle.checksums", "a changed image", func(dir string) { overwrite(dir, "cc-base.qcow2") }),
		onDisk("bundle.unlisted", "a file too many", func(dir string) { overwrite(dir, "config/more.conf") }),
		fails("bundle.manifest", "a file of another digest", func(f *installertest.Folder) {
			f.Manifest.Files = []manifest.File{{Path: "image.key", Size: 32, SHA256: strings.Repeat("0", 64)}}
		}),
		{name: "every disk taken", id: "device.target", status: check.Skip, root: host().Mount("8:0", "/", "ext4", "/dev/sda")},
		fails("device.table", "a partition that moved", func(f *installertest.Folder) { f.Table.Entries[4].Start += 1 << 20; f.Table.Entries[4].Size -= 1 << 20 }),
		fails("device.table", "another disk GUID", func(f *installertest.Folder) { f.Table.GUID = f.Table.Entries[3].GUID }),
		fails("device.stretch", "content in the last partition", func(f *installertest.Folder) { f.Partition("cc-dynamic").ContentSize = 4096; f.Digest() }),
		{name: "a key that everybody reads", id: "keys.image-key", status: check.Fail, change: func(f *installertest.Folder) { f.Modes["image.key"] = 0o644 }},
		fails("keys.image-key", "an empty key", func(f *installertest.Folder) { f.Files["image.key"] = nil }),
		{name: "no key", id: "keys.image-key", status: check.Skip, change: func(f *installertest.Folder) { delete(f.Files, "image.key") }},
		fails("keys.encrypted", "a plain volume that claims to be encrypted", func(f *installertest.Folder) {
			at := f.Partition("cc-root").Start
			clear(f.Disk.Bytes[at : at+4096])
			f.Digest()
		}),
		fails("keys.headers", "a flipped bit", func(f *installertest.Folder) { f.Disk.Bytes[f.Partition("cc-root").Start+5000] ^= 1; f.Digest() }),
		fails("keys.headers", "a flipped bit in the second header", func(f *installertest.Folder) { f.Disk.Bytes[f.Partition("cc-root").Start+16384+5000] ^= 1; f.Digest() }),
		fails("keys.headers", "LUKS1", func(f *installertest.Folder) { f.Disk.Bytes[f.Partition("cc-root").Start+7] = 1; f.Digest() }),
		luks("a null cipher for the data", `"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64"`, `"dynamic","iv_tweak":"0","encryption":"cipher_null-ecb"`),
		luks("a null cipher for the keyslot", `"258048","encryption":"aes-xts-plain64"`, `"258048","encryption":"cipher_null"`),
		luks("a second keyslot", `"keyslots":{"0":`, `"keyslots":{"1":{"type":"luks2"},"0":`),
		luks("a second segment", `"segments":{"0":`, `"segments":{"1":{"type":"linear"},"0":`),
		luks("a plain segment", `{"type":"crypt"`, `{"type":"linear"`),
		luks("a pending re-encryption", `"config":{`, `"config":{"requirements":{"mandatory":["online-reencrypt-v2"]},`),
		luks("a digest that covers nothing", `"keyslots":["0"]`, `"keyslots":[]`),
		luks("JSON that is none", `{"keyslots"`, `{"keyslots`),
		fails("apps.volume", "no verity", func(f *installertest.Folder) { f.Partition("cc-app").Verity = nil }),
		fails("apps.volume", "writable", func(f *installertest.Folder) { f.Partition("cc-app").ReadOnly = false }),
		fails("apps.volume", "a root hash of zeros", func(f *installertest.Folder) { f.Partition("cc-app").Verity.RootHash = strings.Repeat("0", 64) }),
		malformed("apps.volume", "a hash tree outside", func(f *installertest.Folder) { f.Partition("cc-app").Verity.HashOffset = 1 << 40 }),
		fails("apps.command-line", "one blank more", func(f *installertest.Folder) { f.CommandLine += " " }),
		fails("apps.command-line", "no PE file", func(f *installertest.Folder) { f.Files["cc-base.efi"] = []byte("MZ") }),
		fails("apps.root-hashes", "the hash of no volume", func(f *installertest.Folder) { f.Manifest.CommandLine = strings.Replace(f.CommandLine, "b2", "b3", 1) }),
		fails("apps.root-hashes", "a hash given twice", func(f *installertest.Folder) { f.Manifest.CommandLine += " " + f.CommandLine }),
		fails("partition.order", "two in another order", func(f *installertest.Folder) {
			f.Partition("cc-app").Label = "cc-x"
			f.Partition("cc-root").Label = "cc-app"
			f.Partition("cc-x").Label = "cc-root"
		}),
		malformed("partition.identity", "one GUID twice", func(f *installertest.Folder) { f.Partition("cc-app").GUID = f.Partition("cc-root").GUID }),
		fails("partition.identity", "a second ESP", func(f *installertest.Folder) { f.Partition("cc-app").TypeGUID = f.Partition("cc-esp").TypeGUID }),
		fails("partition.alignment", "half a MiB", func(f *installertest.Folder) {
			f.Partition("cc-dynamic").Start += 1 << 19
			f.Partition("cc-dynamic").Size -= 1 << 19
		}),
		fails("partition.read-only", "not in the partition table", func(f *installertest.Folder) { f.Table.Entries[1].Attributes = 0 }),
		fails("partition.read-only", "a dynamic volume that is", func(f *installertest.Folder) { f.Partition("cc-dynamic").ReadOnly = true }),
		fails("measurements.computed", "a boot image with another kernel", func(f *installertest.Folder) {
			keepRows(f)
			uki := boottest.UKI(f.CommandLine)
			uki[bytes.LastIndex(uki, []byte("\x00kernel"))+1] ^= 1
			f.Files["cc-base.efi"] = uki
		}),
		fails("measurements.computed", "firmware that was exchanged", func(f *installertest.Folder) {
			keepRows(f)
			f.Files[measurements.SNPFirmware][0] ^= 1
		}),
		fails("measurements.computed", "firmware that was taken away", func(f *installertest.Folder) {
			keepRows(f)
			delete(f.Files, measurements.TDXFirmware)
		}),
		fails("measurements.computed", "another partition table", func(f *installertest.Folder) {
			keepRows(f)
			f.Table.Entries[4].Attributes = 1
		}),
		fails("measurements.computed", "other reference values", func(f *installertest.Folder) {
			keepRows(f)
			f.Files[measurements.RVPSFile] = []byte("{}\n")
		}),
		fails("measurements.computed", "a row less", func(f *installertest.Folder) {
			f.Machines.VCPUs = []int{2, 4}
			keepRows(f)
			text := string(f.Files[measurements.File])
			first := strings.Index(text, "    {\n      \"firmware\": ")
			end := first + strings.Index(text[first:], "    },\n") + len("    },\n")
			f.Files[measurements.File] = []byte(text[:first] + text[end:])
		}),
		fails("measurements.computed", "no document", func(f *installertest.Folder) {
			f.Files[measurements.File], f.Files[measurements.RVPSFile] = []byte("{}"), []byte("{}")
		}),
		{name: "no reference values", id: "measurements.computed", status: check.Error, after: func(dir string) { _ = os.Remove(filepath.Join(dir, measurements.RVPSFile)) }},
		fails("partition.content", "a flipped bit", func(f *installertest.Folder) { f.Disk.Bytes[f.Partition("cc-config").Start+100] ^= 1 }),
	}
}

func TestEveryMutantIsFound(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	for _, m := range mutants() {
		found[m.id] = true
		t.Run(m.id+" "+m.name, func(t *testing.T) {
			t.Parallel()
			f := folder()
			if m.change != nil {
				m.change(f)
			}
			root := m.root
			if root == nil {
				root = host()
			}
			report := run(t, root, f, m.after)
			i := slices.IndexFunc(report.Results, func(r check.Result) bool { return r.ID == m.id })
			if got := report.Results[i]; got.Status != m.status {
				t.Errorf("got %s (%s), want %s", got.Status, got.Detail, m.status)
			}
			if (m.status == check.Fail || m.status == check.Error) && !report.Failed() {
				t.Error("the report says that nothing failed")
			}
		})
	}
	for _, c := range validation.All(&validation.Env{}) {
		if !found[c.ID] {
			t.Errorf("%s has no mutant", c.ID)
		}
		if c.Title == "" || c.Remedy == "" || c.Tier == "" || len(c.Where) == 0 || !strings.HasPrefix(c.ID, c.Area+".") {
			t.Errorf("%s is not complete", c.ID)
		}
	}
}

func TestNothingPassesWithoutAnInstaller(t *testing.T) {
	t.Parallel()
	env := &validation.Env{Root: host(), Dir: t.TempDir()}
	defer env.Close()
	report := check.Run(t.Context(), check.Host, validation.All(env))
	if report.Counts[check.Pass]+report.Counts[check.Skip] > 0 || !report.Failed() {
		t.Errorf("counts %v", report.Counts)
	}
}

func TestSelect(t *testing.T) {
	t.Parallel()
	ids := func(names ...string) []string {
		checks, err := check.Select(validation.All(&validation.Env{}), names)
		if err != nil {
			return []string{"error"}
		}
		var out []string
		for _, c := range checks {
			out = append(out, c.ID)
		}
		return out
	}
	if got := ids("partition.order", "bundle.unlisted"); !cmp.Equal(got, []string{"bundle.unlisted", "partition.order"}) {
		t.Errorf("got %v", got)
	}
	if got := ids("keys", "keys.headers"); len(got) != 3 {
		t.Errorf("got %v", got)
	}
	if got := ids(); len(got) != len(validation.All(&validation.Env{})) {
		t.Errorf("got %v", got)
	}
	if got := ids("key"); got[0] != "error" {
		t.Errorf("got %v", got)
	}
}

func TestOutputs(t *testing.T) {
	t.Parallel()
	f := folder()
	delete(f.Files, "image.key")
	f.Table.Entries[1].Attributes = 0
	report := run(t, host(), f, nil)
	var text, tap bytes.Buffer
	if err := report.Text(&text); err != nil {
		t.Fatal(err)
	}
	if err := report.TAP(&tap); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ in, text string }{
		{text.String(), "1 failed, 1 skipped, 0 errors"}, {text.String(), "do: build the image again"},
		{tap.String(), "# SKIP the key does not travel"}, {tap.String(), "not ok"}, {tap.String(), "TAP version 13\n1..18\n"},
		{string(raw), `"id":"keys.image-key"`}, {string(raw), `"status":"skip"`},
	} {
		if !strings.Contains(want.in, want.text) {
			t.Errorf("%q is not in:\n%s", want.text, want.in)
		}
	}
	if (check.Report{}).Failed() == false {
		t.Error("an empty report passes")
	}
}

// The scripts are what people run; each must name an area that exists.
func TestTheScriptsNameAreas(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("test_*.sh")
	if err != nil || len(scripts) != 4 {
		t.Fatalf("%v, error %v", scripts, err)
	}
	for _, script := range scripts {
		raw, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut(string(raw), "\ncc_check ")
		area, _, _ := strings.Cut(rest, " ")
		if !ok || !slices.Contains(check.Areas(validation.All(&validation.Env{})), area) || strings.Count(string(raw), "\n") > 15 {
			t.Errorf("%s: area %q", script, area)
		}
		_, rest, _ = strings.Cut(string(raw), "\nguest_checks='")
		names, _, _ := strings.Cut(rest, "'")
		if chosen, err := check.Select(guest.All(guest.Env{}), strings.Fields(names)); err != nil || names == "" || len(chosen) == 0 {
			t.Errorf("%s: checks of the guest %q: %v", script, names, err)
		}
	}
}
