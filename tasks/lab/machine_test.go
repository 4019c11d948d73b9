package lab_test

// Machines that several tests begin with, and boot images whose guest takes
// devices that are not real.

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cc-base/overlays/cc-guest/control"
	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/lab"
	"cc-base/tasks/program"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
	"cc-base/tasks/vm"
)

// installed is a machine of its own: disk and TPM outlive its boots.
type installed struct {
	tools toolbox.Tree
	tmp   string
	image lab.Image
	guest lab.Guest
}

// install returns a machine that was never switched on.
func install(t *testing.T) installed {
	t.Helper()
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	return installed{tools: tools, tmp: tmp, image: image, guest: lab.Guest{
		Disk: image.Raw(t, tools, tmp), Persistent: true, Dir: lab.ShortDir(t),
		Ports: []vm.Port{{Name: control.PortName}},
	}}
}

// first returns the machine as it is given the secret of the installation.
func (i installed) first() lab.Guest {
	g := i.guest
	g.Key = i.image.Path("keys", "image.key")
	return g
}

// enrolment is the one first boot that all tests of an enrolled machine share.
var enrolment struct {
	once  sync.Once
	dir   string // disk.raw and what the machine keeps while it is off
	lines []string
}

// enrolled returns a copy of a machine after its first boot.
func enrolled(t *testing.T) installed {
	t.Helper()
	m := install(t)
	enrolment.once.Do(func() {
		lines := m.boot(t, m.first(), nil)
		dir, err := os.MkdirTemp("", "enrolled")
		if err != nil {
			t.Fatal(err)
		}
		enrolment.dir = dir
		copyTree(t, m.guest.Dir, filepath.Join(dir, "machine"))
		copyTree(t, m.guest.Disk, filepath.Join(dir, "disk.raw"))
		enrolment.lines = lines
	})
	if enrolment.lines == nil {
		t.Fatal("the first boot, which another test made, has failed")
	}
	copyTree(t, filepath.Join(enrolment.dir, "machine")+"/.", m.guest.Dir)
	copyTree(t, filepath.Join(enrolment.dir, "disk.raw"), m.guest.Disk)
	return m
}

// copyTree copies files and folders, holes and all; sockets stay behind.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := sh.Do(context.Background(), sh.Host{}, "cp", "-a", "--sparse=always", "--reflink=auto", from, to)
	if err != nil {
		t.Fatal(err)
	}
}

// boot starts the machine, waits for the ready line, and lets do talk with it.
func (i installed) boot(t *testing.T, g lab.Guest, do func(ctx context.Context, c *control.Client)) []string {
	t.Helper()
	var lines []string
	boots.Run(t, i.tools, g, func(ctx context.Context, m *vm.Machine) {
		t.Helper()
		if _, err := m.Expect(ctx, ready); err != nil {
			t.Fatal(err)
		}
		lines = m.Lines()
		if do == nil {
			return
		}
		c, err := control.Dial(ctx, filepath.Join(g.Dir, control.PortName+".sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		do(ctx, c)
	})
	return lines
}

// refused boots the machine and wants it to end with every one of the parts on
// its console.
func (i installed) refused(t *testing.T, g lab.Guest, parts ...string) []string {
	t.Helper()
	lines := boots.Boot(t, i.tools, g, "")
	refused(t, lines, parts...)
	return lines
}

// partition opens a partition's content on the machine's disk.
func (i installed) partition(t *testing.T, label string) (disk *os.File, start, size int64) {
	t.Helper()
	p, ok := i.image.Manifest.Disk.Partition(label)
	if !ok {
		t.Fatal("no " + label)
	}
	f, err := os.OpenFile(i.guest.Disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, p.Start, p.Size
}

// put writes what is in the file over the beginning of a partition.
func (i installed) put(t *testing.T, label, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	disk, start, size := i.partition(t, label)
	if int64(len(data)) > size {
		t.Fatalf("%d bytes do not fit into %s", len(data), label)
	}
	if _, err := disk.WriteAt(data, start); err != nil {
		t.Fatal(err)
	}
}

// take copies the first size bytes of a partition to file.
func (i installed) take(t *testing.T, label string, size int64, file string) {
	t.Helper()
	disk, start, _ := i.partition(t, label)
	data := make([]byte, size)
	if _, err := disk.ReadAt(data, start); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// cryptsetup runs the tools tree's cryptsetup; each secret is readable at
// /proc/self/fd/3 and following.
func (i installed) cryptsetup(t *testing.T, secrets []string, stdin string, args ...string) {
	t.Helper()
	cmd := sh.Cmd{Name: "cryptsetup", Args: append([]string{"--batch-mode", "--disable-locks"}, args...), Stdin: strings.NewReader(stdin)}
	for _, s := range secrets {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer read.Close()
		if _, err := io.WriteString(write, s); err != nil {
			t.Fatal(err)
		}
		write.Close()
		cmd.Files = append(cmd.Files, read)
	}
	if err := i.tools.Run(context.Background(), cmd); err != nil {
		t.Fatal(err)
	}
}

// imageKey returns the secret that the built volumes open with.
func (i installed) imageKey(t *testing.T) string {
	t.Helper()
	key, err := os.ReadFile(i.image.Path("keys", "image.key"))
	if err != nil {
		t.Fatal(err)
	}
	return string(key)
}

// testGuest is cc-guest with devices that are not real, compiled once.
var testGuest struct {
	once sync.Once
	data []byte
}

func testProgram(t *testing.T, m installed) []byte {
	t.Helper()
	testGuest.once.Do(func() {
		out := filepath.Join(m.tmp, "cc-guest.test")
		if err := program.Build(context.Background(), sh.Host{}, "../..", "./overlays/cc-guest", out, "cctest"); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		testGuest.data = data
	})
	if testGuest.data == nil {
		t.Fatal("the test build of cc-guest, which another test made, has failed")
	}
	return testGuest.data
}

// guestSettings returns what the image's guest was built with.
func (i installed) guestSettings(t *testing.T) settings.Settings {
	t.Helper()
	f, err := os.Open(i.image.Path("scratch", "root.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			t.Fatal("the root has no " + settings.Path)
		}
		if err != nil {
			t.Fatal(err)
		}
		if "/"+strings.TrimPrefix(h.Name, "./") != settings.Path {
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		s, err := settings.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// withSettings makes the machine boot an initrd with other settings.
func (i installed) withSettings(t *testing.T, change func(*settings.Settings)) {
	t.Helper()
	i.image.WithInitrdFiles(t, i.tools, i.guest.Disk, "", map[string][]byte{"usr/lib/cc/guest.json": i.changed(t, change)})
}

func (i installed) changed(t *testing.T, change func(*settings.Settings)) []byte {
	t.Helper()
	s := i.guestSettings(t)
	change(&s)
	text, err := settings.Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// withTestBuild makes the machine boot a test build in a key profile, and returns
// its boot image and command line. The mark of a test build is on that measured
// line; without it the program is refused.
func (i installed) withTestBuild(t *testing.T, profile string, change func(*settings.Settings), more map[string][]byte) (uki, line string) {
	t.Helper()
	files := map[string][]byte{"usr/lib/cc/cc-guest": testProgram(t, i), "usr/lib/cc/guest.json": i.changed(t, change)}
	for name, data := range more {
		files[name] = data
	}
	line = strings.Replace(i.image.Manifest.CommandLine, "cc.keys=tpm", "cc.keys="+profile, 1) + " cc.test=1"
	uki = i.image.BuildUKI(t, i.tools, filepath.Dir(i.guest.Disk), lab.BootImage{CommandLine: line, Files: files})
	i.image.PutUKI(t, i.tools, i.guest.Disk, uki)
	return uki, line
}

// asJSON encodes what a test puts into an initrd.
func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
