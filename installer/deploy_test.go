package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/installer/deployment"
	"cc-base/installer/installertest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/manifest"
	"cc-base/tasks/seal"
	"cc-base/tasks/seal/header"
	"cc-base/tasks/sh"
)

// site is a host for tests: a sealed installer, a disk, and the tools tree for
// programs.
type host struct {
	tools            sh.Runner
	dir, disk, state string
	image            *installertest.Folder
}

func newHost(t *testing.T) host {
	t.Helper()
	h := host{dir: t.TempDir(), state: filepath.Join(t.TempDir(), "state"), disk: filepath.Join(t.TempDir(), "disk")}
	tools, tmp := lab.Tools(t, filepath.Dir(h.state))
	h.tools, h.image = tools, installertest.New().Seal(t, tools, tmp)
	if err := h.image.Write(h.dir); err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, h.disk, bytes.Repeat([]byte{used}, 80<<20))
	return h
}

// run runs a command with the host's folders.
func (h host) run(t *testing.T, ctx context.Context, terminal bool, args ...string) (string, error) {
	t.Helper()
	a, out := inProcess(os.DirFS("/"), "", false)
	a.programs, a.shows = h.tools, terminal
	err := a.run(ctx, append(args, "--dir", h.dir, "--state", h.state, "--allow-file"))
	return out.String(), err
}

// volume returns the header of an encrypted partition on the disk.
func (h host) volume(t *testing.T, label string) (*header.Copy, []byte) {
	t.Helper()
	p := h.image.Partition(label)
	raw := filetest.Read(t, h.disk)[p.Start : p.Start+p.ContentSize]
	c, err := header.Read(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return c, raw
}

func opened(c *header.Copy, passphrase []byte) []string {
	var slots []string
	for slot := range c.Metadata().Keyslots {
		if _, err := c.VolumeKey(slot, passphrase); err == nil {
			slots = append(slots, slot)
		}
	}
	return slots
}

func TestAnInstallationHasKeysOfItsOwn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	out, err := h.run(t, t.Context(), true, "install", "--disk-only", h.disk, "--yes")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	secret := filetest.Read(t, filepath.Join(h.state, "cc-base", deployment.EnrolmentFile))
	_, after, ok := strings.Cut(out, "shown this once: ")
	if !ok {
		t.Fatalf("no recovery key on the terminal:\n%s", out)
	}
	recovery, err := seal.NormalizeRecovery([]byte(strings.Fields(after)[0]))
	if err != nil {
		t.Fatal(err)
	}
	var keys [][]byte
	for _, label := range []string{"cc-root", "cc-app"} {
		c, raw := h.volume(t, label)
		if bytes.Contains(h.image.Disk.Bytes, raw[seal.HeaderSize:][:seal.SectorSize]) {
			t.Errorf("%s: the first encrypted sector is the shipped image's", label)
		}
		for name, want := range map[string]struct {
			passphrase []byte
			slots      int
		}{"the image's": {h.image.Files["image.key"], 0}, "the installation's": {secret, 1}, "the recovery": {recovery, 1}} {
			if got := opened(c, want.passphrase); len(got) != want.slots {
				t.Errorf("%s: %s key opens %q", label, name, got)
			}
		}
		key, err := c.VolumeKey("0", secret)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	if bytes.Equal(keys[0], keys[1]) {
		t.Error("root and app share a volume key")
	}
	if out, err := h.run(t, t.Context(), false, "verify", h.disk); err != nil || !strings.Contains(out, "installed and unchanged") {
		t.Errorf("%v\n%s", err, out)
	}
	filetest.Only(t, filepath.Join(h.state, "cc-base"), "enroll.key", "install.json", "install.lock")
	for _, f := range []string{"enroll.key", "install.json"} {
		if info, err := os.Stat(filepath.Join(h.state, "cc-base", f)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}

	// The guest changes the header when it binds the volume; nobody may change
	// the data.
	p := h.image.Partition("cc-root")
	root := filepath.Join(filepath.Dir(h.state), "root")
	filetest.Write(t, root, filetest.Read(t, h.disk)[p.Start:p.Start+p.ContentSize])
	e := seal.Encryption{Hash: "sha512"}
	if err := seal.AddKey(t.Context(), h.tools, root, 3, secret, bytes.Repeat([]byte("bound"), 10), e); err != nil {
		t.Fatal(err)
	}
	patch(t, h.disk, p.Start, filetest.Read(t, root))
	if out, err := h.run(t, t.Context(), false, "verify", h.disk); err != nil {
		t.Errorf("after another keyslot: %v\n%s", err, out)
	}
	lab.Flip(t, h.disk, p.Start+seal.HeaderSize+4711)
	out, err = h.run(t, t.Context(), false, "verify", h.disk)
	faulttest.Want(t, err, fault.InstallVerify, "cc-root: its content has sha256")
	_ = out
}

func patch(t *testing.T, file string, at int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
}

func TestTwoInstallationsShareNoKey(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	other := h
	other.disk, other.state = h.disk+"2", h.state+"2"
	filetest.Write(t, other.disk, bytes.Repeat([]byte{used}, 80<<20))
	var volumes [][]byte
	for _, x := range []host{h, other} {
		if out, err := x.run(t, t.Context(), false, "install", "--disk-only", x.disk, "--yes"); err != nil || !strings.Contains(out, "recovery:  no key was made") {
			t.Fatalf("%v\n%s", err, out)
		}
		_, raw := x.volume(t, "cc-root")
		volumes = append(volumes, raw[seal.HeaderSize:])
	}
	for at := 0; at < len(volumes[0]); at += seal.SectorSize {
		if bytes.Equal(volumes[0][at:][:seal.SectorSize], volumes[1][at:][:seal.SectorSize]) {
			t.Fatalf("the sector at %d is the same on both disks", at)
		}
	}
	key := filetest.Read(t, filepath.Join(other.state, "cc-base", deployment.EnrolmentFile))
	if c, _ := h.volume(t, "cc-root"); len(opened(c, key)) > 0 {
		t.Error("the secret of one opens the other")
	}
	// Without the record of that host nobody can say what the volumes should be.
	x := h
	x.state = other.state
	_, err := x.run(t, t.Context(), false, "verify", h.disk)
	faulttest.Want(t, err, fault.InstallVerify, "this host has no record of an installation on this disk")
}

// What an interruption leaves is never taken for an installation, and the next
// run begins anew.
func TestAnInterruptedInstallationIsMadeAnew(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, at := range []string{"cc-root: giving", "cc-app: giving", "cc-app: other key", "writing", "reading it back"} {
		ctx, cancel := context.WithCancel(t.Context())
		a, _ := inProcess(os.DirFS("/"), "", false)
		a.programs, a.shows, a.err = h.tools, true, cancelOn{cancel, at}
		err := a.run(ctx, []string{"install", "--disk-only", h.disk, "--yes", "--dir", h.dir, "--state", h.state, "--allow-file"})
		if fault.Exit(err) != fault.ExitFailed {
			t.Errorf("at %q: %v", at, err)
		}
		if out, err := h.run(t, t.Context(), false, "verify", h.disk); strings.Contains(out, "installed and unchanged") {
			t.Errorf("at %q a partial installation is called good (%v):\n%s", at, err, out)
		}
		if _, err := os.Stat(filepath.Join(h.state, "cc-base", "scratch")); err == nil {
			t.Errorf("at %q the copies stayed", at)
		}
	}
	out, err := h.run(t, t.Context(), false, "install", "--disk-only", h.disk, "--yes")
	if err != nil || !strings.Contains(out, "was not finished; it begins anew") {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := h.run(t, t.Context(), false, "verify", h.disk); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A record that says "started" outweighs a disk that looks right: a kill may come
// between the table and the record.
func TestADiskWhoseRecordIsUnfinishedIsNotInstalled(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if out, err := h.run(t, t.Context(), false, "install", "--disk-only", h.disk, "--yes"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d, err := deployment.Open(h.state, "cc-base")
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := d.Record()
	if err != nil {
		t.Fatal(err)
	}
	r.State = deployment.Started
	if err := d.Save(r); err != nil {
		t.Fatal(err)
	}
	d.Close()
	out, err := h.run(t, t.Context(), false, "verify", h.disk, "--json")
	faulttest.Want(t, err, fault.InstallVerify, "was not finished")
	_, document, _ := strings.Cut(out, "\n") // below the line that tells what is verified
	var v verdict
	if json.Unmarshal([]byte(document), &v) != nil || v.State != stateUnfinished {
		t.Errorf("%s", out)
	}
}

func TestWhatIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	none := func(string) {}
	for name, tt := range map[string]struct {
		prepare func(dir string)
		args    []string
		code    fault.Code
		want    string
	}{
		"no key":            {func(dir string) { os.Remove(filepath.Join(dir, "image.key")) }, nil, fault.Damaged, "image.key"},
		"a key for all":     {none, []string{"--image-key", filetest.Write(t, filepath.Join(t.TempDir(), "open"), nil)}, fault.Usage, "want 0600"},
		"no such recipient": {none, []string{"--recipient", "/nonesuch.asc"}, fault.Usage, "--recipient /nonesuch.asc"},
		"a strange name":    {none, []string{"--name", "../x"}, fault.Usage, "1 to 63"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(h.dir)); err != nil {
				t.Fatal(err)
			}
			tt.prepare(dir)
			x := h
			x.dir = dir
			_, err := x.run(t, t.Context(), false, append([]string{"install", "--disk-only", h.disk, "--yes"}, tt.args...)...)
			faulttest.Want(t, err, tt.code, tt.want)
			unchanged(t, h.disk)
			if _, err := os.Stat(h.state); err == nil {
				t.Error("the state folder was made")
			}
		})
	}
}

func TestAWrongImageKeyWritesNothingToTheDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	key := filetest.Write(t, filepath.Join(t.TempDir(), "key"), []byte(strings.Repeat("x", 40)))
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := h.run(t, t.Context(), false, "install", "--disk-only", h.disk, "--yes", "--image-key", key)
	faulttest.Want(t, err, fault.Sealing, "opens none of its keyslots")
	unchanged(t, h.disk)
}

func TestADebugImageIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.image.Manifest.CommandLine += " " + manifest.DebugMark
	h.image.CommandLine = h.image.Manifest.CommandLine
	if err := h.image.Write(h.dir); err != nil {
		t.Fatal(err)
	}
	_, err := h.run(t, t.Context(), false, "install", "--disk-only", h.disk, "--yes")
	faulttest.Want(t, err, fault.DebugImage, "root shell")
	if fault.Exit(err) != fault.ExitUnsafe {
		t.Errorf("exit status %d", fault.Exit(err))
	}
	unchanged(t, h.disk)
	out, err := h.run(t, t.Context(), false, "install", "--disk-only", h.disk, "--yes", "--allow-debug")
	if err != nil || !strings.Contains(out, "DEBUG IMAGE") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAnOlderImageIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if _, err := h.run(t, t.Context(), false, "install", "--disk-only", h.disk, "--yes"); err != nil {
		t.Fatal(err)
	}
	newer := filetest.Read(t, filepath.Join(h.state, "cc-base", "install.json"))
	text := strings.Replace(string(newer), `"sourceDateEpoch": 0`, `"sourceDateEpoch": 1900000000`, 1)
	filetest.Write(t, filepath.Join(h.state, "cc-base", "install.json"), []byte(text))
	before := filetest.Read(t, h.disk)
	_, err := h.run(t, t.Context(), false, "install", "--disk-only", h.disk, "--yes")
	faulttest.Want(t, err, fault.OlderImage, "2030-03-17")
	if fault.Exit(err) != fault.ExitUnsafe || !bytes.Equal(before, filetest.Read(t, h.disk)) {
		t.Errorf("exit status %d, or the disk was written to", fault.Exit(err))
	}
	if out, err := h.run(t, t.Context(), false, "install", "--disk-only", h.disk, "--yes", "--allow-downgrade"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
