package main

// What green does not prove: the device is a FUSE file that fails at once and
// says so. A disk that hangs, resets its bus, or returns an error minutes
// later, is met on test hardware only.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"cc-base/installer/deployment"
	"cc-base/tasks/lab"
)

// brokenDisk is a used disk in memory, served as a file, that breaks at a byte.
type brokenDisk struct {
	fs.Inode
	mu    sync.Mutex
	bytes []byte
	fault brokenness
}

// bad is how many bytes a bad area has.
const bad = 64 << 10

// brokenness is what a disk does wrong, and where: write and read fail for a bad
// area that begins there, lie changes one byte; 0 is nothing.
type brokenness struct {
	write, read, lie int64
	sync             bool
}

func (d *brokenDisk) breaks(b brokenness) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = b
}

// Getattr implements [fs.NodeGetattrer].
func (d *brokenDisk) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = fuse.S_IFREG|0o600, uint64(len(d.bytes))
	return 0
}

// Open implements [fs.NodeOpener].
func (d *brokenDisk) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, 0
}

// Read implements [fs.NodeReader].
func (d *brokenDisk) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := copy(dest, d.bytes[min(off, int64(len(d.bytes))):])
	if n = d.good(d.fault.read, off, n); n < 0 {
		return nil, syscall.EIO
	}
	if at := d.fault.lie; at >= off && at < off+int64(n) {
		dest[at-off] ^= 0x10
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Write implements [fs.NodeWriter].
func (d *brokenDisk) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.good(d.fault.write, off, len(data))
	if n < 0 {
		return 0, syscall.EIO
	}
	return uint32(copy(d.bytes[off:], data[:n])), 0
}

// good is how many of n bytes at off lie before the bad area; negative: none.
func (d *brokenDisk) good(at, off int64, n int) int {
	switch {
	case at == 0 || off+int64(n) <= at || off >= at+bad:
		return n
	case off >= at:
		return -1
	}
	return int(at - off)
}

// Fsync implements [fs.NodeFsyncer].
func (d *brokenDisk) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault.sync {
		return syscall.EIO
	}
	return 0
}

// serve mounts the disk and returns its path.
func (d *brokenDisk) serve(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Getuid() != 0 {
		lab.Absent(t, "a FUSE file needs root and /dev/fuse (%v)", err)
	}
	dir := t.TempDir()
	root := &fs.Inode{}
	o := &fs.Options{OnAdd: func(ctx context.Context) {
		root.AddChild("disk", root.NewPersistentInode(ctx, d, fs.StableAttr{Mode: fuse.S_IFREG}), true)
	}}
	o.MountOptions.DirectMountStrict = true
	server, err := fs.Mount(dir, root, o)
	if err != nil {
		lab.Absent(t, "FUSE cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "disk")
}

// shipped returns the path of the program as it is shipped.
func shipped(t *testing.T) string {
	t.Helper()
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cc-install")
	// A process that another test starts meanwhile would hold the file open for
	// writing, and the kernel would not run it.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// runBuilt runs the shipped program in a process of its own. Its exit status is
// in the error.
func runBuilt(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, shipped(t), args...).CombinedOutput()
	return string(out), err
}

func TestADiskThatFailsIsNeverInstalled(t *testing.T) {
	t.Parallel()
	f, err := folder()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := f.Write(dir); err != nil {
		t.Fatal(err)
	}
	root := f.Partition("cc-root")
	at := root.Start + root.ContentSize/2/4096*4096
	for name, tt := range map[string]struct {
		fault brokenness
		want  string
	}{
		"it fails to write":            {brokenness{write: at}, `: cc-root: writing (\d+) bytes at byte (\d+): input/output error`},
		"it fails to read":             {brokenness{read: at}, `: reading back cc-root: reading (\d+) bytes at byte (\d+): input/output error`},
		"it returns other bytes":       {brokenness{lie: at + 5}, fmt.Sprintf("the device returns other bytes than were written from byte %d on", at+5)},
		"it fails to keep what it has": {brokenness{sync: true}, "the old backup table: sync "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &brokenDisk{bytes: bytes.Repeat([]byte{used}, 32<<20), fault: tt.fault}
			disk := d.serve(t)
			host := []string{disk, "--allow-file", "--dir", dir, "--state", filepath.Join(t.TempDir(), "state")}
			install := append([]string{"install", "--disk-only", "--yes"}, host...)
			out, err := runBuilt(t, install...)
			t.Logf("%s", out)
			where := regexp.MustCompile(tt.want).FindStringSubmatch(out)
			if where == nil {
				t.Errorf("no %q in it", tt.want)
			} else if len(where) == 3 {
				length, _ := strconv.ParseInt(where[1], 10, 64)
				if from, _ := strconv.ParseInt(where[2], 10, 64); from > at || at >= from+length {
					t.Errorf("it names %d bytes at %d, it was %d", length, from, at)
				}
			}
			for _, want := range []string{"code: CC0704 ", disk + ": ", "holds no valid installation now; run the installer again"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in it", want)
				}
			}
			var status *exec.ExitError
			if !errors.As(err, &status) || status.ExitCode() != 1 {
				t.Errorf("it ended with %v", err)
			}
			verify := append([]string{"verify"}, host...)
			for _, f := range []brokenness{tt.fault, {}} {
				d.breaks(f)
				out, err := runBuilt(t, verify...)
				t.Logf("verify: %v\n%s", err, out)
				if strings.Contains(out, "installed") || !strings.Contains(out, "no cc-base on it") {
					t.Error("it says something else than that there is no cc-base")
				}
			}
			// The disk was exchanged for a good one.
			for _, args := range [][]string{install, verify} {
				if out, err := runBuilt(t, args...); err != nil {
					t.Fatalf("%v: %v\n%s", args[0], err, out)
				}
			}
		})
	}
}

// smallState is a file system of its own for the state folder.
func smallState(t *testing.T, options string) string {
	t.Helper()
	if os.Getuid() != 0 {
		lab.Absent(t, "a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		lab.Absent(t, "mounting a tmpfs is not allowed here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestAFullStateFolderLeavesTheDiskAlone(t *testing.T) {
	t.Parallel()
	dir := installer(t)
	for name, tt := range map[string]struct {
		options string
		want    []string
	}{
		"too small":             {"size=4m", []string{"4.2 MB free, the volumes' copies need ", "--state"}},
		"full while it is used": {"size=128m,nr_inodes=4", []string{"no space left on device"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(disk, bytes.Repeat([]byte{used}, 32<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			host := []string{disk, "--allow-file", "--dir", dir, "--state", smallState(t, tt.options)}
			out, err := runBuilt(t, append([]string{"install", "--disk-only", "--yes"}, host...)...)
			if err == nil || !strings.Contains(out, "code: CC0707 ") {
				t.Errorf("it ended with %v:\n%s", err, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
			unchanged(t, disk)
			if _, found, _ := deployment.Load(host[len(host)-1], "cc-base"); found {
				t.Error("there is a record")
			}
		})
	}
}
