// Command probe is put into test initrds. Each verb does one thing that a test
// wants to see done inside the guest, and says on the console what came out.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	block = 4096
	tail  = 64 * block // what write and read are about: the end of the device
	bulk  = 8 << 20    // what speed writes
)

func main() {
	verbs := map[string]func(args []string) error{
		"wait": wait, "erofs": erofs, "write": write, "read": read, "speed": speed, "count": count, "watch": watch, "after": after,
		"plant": plant, "hardened": hardened,
	}
	verb, ok := verbs[os.Args[1]]
	err := errors.New("no such verb")
	if ok {
		err = verb(os.Args[2:])
	}
	if err != nil {
		say("%s: %v", os.Args[1], err)
		os.Exit(1)
	}
}

// devices stays usable when the initrd's /dev has moved to the booted system.
var devices *os.Root

// say opens the console each time: systemd hangs it up for those who have it
// open when the booted system takes it over.
func say(format string, args ...any) {
	if devices == nil {
		var err error
		if devices, err = os.OpenRoot("/dev"); err != nil {
			return
		}
	}
	console, err := devices.OpenFile("console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	defer console.Close()
	fmt.Fprintf(console, "probe: "+format+"\r\n", args...)
}

// wait waits until every path is there.
func wait(paths []string) error {
	end := time.Now().Add(time.Minute)
	for _, p := range paths {
		for {
			if _, err := os.Stat(p); err == nil {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("%s does not come", p)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

// erofs looks for the magic number of the file system (fs/erofs/erofs_fs.h).
func erofs(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := f.ReadAt(magic, 1024); err != nil {
		return err
	}
	if !bytes.Equal(magic, []byte{0xe2, 0xe1, 0xf5, 0xe0}) {
		return fmt.Errorf("%s begins with %x", args[0], magic)
	}
	say("%s is an erofs", args[0])
	return nil
}

// aligned returns memory that a direct read or write may use.
func aligned(size int) []byte {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	return b
}

func open(path string, flags int) (*os.File, int64, error) {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, 0, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	return f, size, err
}

// write fills the end of the device and has the kernel put it in its place.
func write(args []string) error {
	f, size, err := open(args[0], os.O_WRONLY|unix.O_DIRECT)
	if err != nil {
		return err
	}
	defer f.Close()
	data := aligned(tail)
	for i := range data {
		data[i] = byte(i / block)
	}
	if _, err := f.WriteAt(data, size-tail); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// dm-integrity empties its journal when it is suspended
	// (drivers/md/dm-integrity.c, dm_integrity_postsuspend).
	for _, verb := range []string{"suspend", "resume"} {
		if out, err := exec.Command("/usr/sbin/dmsetup", verb, filepath.Base(args[0])+"_dif").CombinedOutput(); err != nil && len(args) == 1 {
			return fmt.Errorf("dmsetup %s: %s", verb, out)
		}
	}
	say("written")
	return nil
}

// read reads the end of the device, once past the page cache and once through
// it, block by block.
func read(args []string) error {
	for name, flag := range map[string]int{"direct": unix.O_DIRECT, "buffered": 0} {
		f, size, err := open(args[0], os.O_RDONLY|flag)
		if err != nil {
			return err
		}
		good, changed, failed := 0, 0, 0
		data := aligned(block)
		for at := size - tail; at < size; at += block {
			_, err := f.ReadAt(data, at)
			want := bytes.Repeat([]byte{byte((at - (size - tail)) / block)}, block)
			switch {
			case errors.Is(err, unix.EIO) || errors.Is(err, unix.EILSEQ):
				failed++
			case err != nil:
				return err
			case bytes.Equal(data, want):
				good++
			default:
				changed++
			}
		}
		f.Close()
		say("%s: %d good, %d refused, %d changed", name, good, failed, changed)
	}
	return nil
}

// speed writes bulk bytes past the page cache.
func speed(args []string) error {
	f, size, err := open(args[0], os.O_WRONLY|unix.O_DIRECT)
	if err != nil {
		return err
	}
	defer f.Close()
	data := aligned(1 << 20)
	began := time.Now()
	for at := size - bulk; at < size; at += 1 << 20 {
		if _, err := f.WriteAt(data, at); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	say("%d MiB in %.2f s", bulk>>20, time.Since(began).Seconds())
	return nil
}

// count keeps a number in a file on the volume and raises it until the power is
// cut. It says what it found, and each number once it is safely kept.
func count(args []string) error {
	const at = "/run/probe"
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(args[0], at, "ext4", 0, ""); err != nil {
		return err
	}
	file := at + "/count"
	had := 0
	text, err := os.ReadFile(file)
	if err == nil {
		had, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	say("had %d", had)
	for n := had + 1; ; n++ {
		f, err := os.OpenFile(file+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		fmt.Fprintf(f, "%0*d\n", block, n)
		if err := errors.Join(f.Sync(), f.Close(), os.Rename(file+".new", file)); err != nil {
			return err
		}
		dir, err := os.Open(at)
		if err != nil {
			return err
		}
		if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
			return err
		}
		say("kept %d", n)
	}
}

// watch looks for the secrets of /usr/lib/cc/secrets, one a line, in the
// arguments and environments of all processes, and in the journal. It goes on
// in the booted system, where its own root is still the initrd's.
func watch([]string) error {
	text, err := os.ReadFile("/usr/lib/cc/secrets")
	if err != nil {
		return err
	}
	secrets := bytes.Fields(text)
	if err := outlive("watch.service"); err != nil {
		return err
	}
	proc, err := os.OpenRoot("/proc")
	if err != nil {
		return err
	}
	run, err := os.OpenRoot("/run")
	if err != nil {
		return err
	}
	looks, shown := 0, time.Now()
	for ; ; looks++ {
		processes, err := fs.Glob(proc.FS(), "[0-9]*")
		if err != nil {
			return err
		}
		for _, p := range processes {
			for _, file := range []string{"cmdline", "environ"} {
				look(secrets, proc.FS(), p+"/"+file)
			}
		}
		if time.Since(shown) > 5*time.Second {
			journals := 0
			err := fs.WalkDir(run.FS(), ".", func(path string, d fs.DirEntry, err error) error {
				if err == nil && strings.HasSuffix(path, ".journal") {
					journals++
					look(secrets, run.FS(), path)
				}
				return nil
			})
			if err != nil {
				return err
			}
			// A processes' dump would hold what it holds.
			pattern, _ := fs.ReadFile(proc.FS(), "sys/kernel/core_pattern")
			say("%d looks, %d journals, core pattern %q, %s", looks, journals, bytes.TrimSpace(pattern), guests(proc.FS(), processes))
			shown = time.Now()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// outlive keeps the probe's unit for the booted system, whose systemd stops what
// it has no unit for; /run stays.
func outlive(unit string) error {
	definition, err := os.ReadFile("/usr/lib/systemd/system/" + unit)
	if err != nil {
		return err
	}
	if err := os.MkdirAll("/run/systemd/system", 0o755); err != nil {
		return err
	}
	return os.WriteFile("/run/systemd/system/"+unit, definition, 0o644)
}

// after waits until the system is ready and does what args say: send a signal to
// the monitor, read a device past every cache, or write into folders.
func after(args []string) error {
	if err := outlive("after.service"); err != nil {
		return err
	}
	proc, err := os.OpenRoot("/proc")
	if err != nil {
		return err
	}
	run, err := os.OpenRoot("/run")
	if err != nil {
		return err
	}
	say("waiting")
	// systemd keeps this link for a unit that is active (unit.c,
	// unit_export_invocation_id), but makes it as it starts the unit.
	for {
		if _, err := run.Lstat("systemd/units/invocation:cc-ready.service"); err == nil {
			break
		}
		time.Sleep(time.Second)
	}
	time.Sleep(15 * time.Second)
	switch args[0] {
	case "signal":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		pid, err := monitor(proc.FS())
		if err != nil {
			return err
		}
		say("signal %d to the monitor", n)
		return unix.Kill(pid, unix.Signal(n))
	case "read":
		f, err := devices.Open(args[1])
		if err != nil {
			return err
		}
		defer f.Close()
		say("now")
		time.Sleep(10 * time.Second) // in which the host may change the disk
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return err
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
		say("read %d bytes: %v", n, err)
		return nil
	case "write":
		return inside(proc, args[1:])
	}
	return errors.New("no such thing")
}

// inside tries, in the booted system, to write into each folder: a file that may
// be there from an earlier boot, and then as much as the folder takes, which is
// removed again.
func inside(proc *os.Root, folders []string) error {
	dir, err := proc.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	root, err := unix.Openat(int(dir.Fd()), "1/root", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Fchdir(root), unix.Chroot(".")); err != nil {
		return err
	}
	for _, folder := range folders {
		sentinel := filepath.Join(folder, "sentinel")
		_, err := os.Lstat(sentinel)
		had := err == nil
		if err := os.WriteFile(sentinel, []byte("kept\n"), 0o600); err != nil {
			say("%s: had %v, %v", folder, had, errors.Unwrap(err))
			continue
		}
		unix.Sync()
		n, err := fill(filepath.Join(folder, "filler"))
		say("%s: had %v, took %d MiB: %v", folder, had, n>>20, errors.Unwrap(err))
	}
	say("all written")
	return nil
}

// fill writes a file until it is refused, a GiB at most, and removes it.
func fill(name string) (int64, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer os.Remove(name)
	defer f.Close()
	n, part := int64(0), make([]byte, 1<<20)
	for n < 1<<30 {
		if _, err := f.Write(part); err != nil {
			return n, err
		}
		n += int64(len(part))
	}
	return n, fmt.Errorf("it takes no end: %w", errors.ErrUnsupported)
}

// monitor returns the process of cc-guest's verb watch.
func monitor(proc fs.FS) (int, error) {
	processes, err := fs.Glob(proc, "[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, p := range processes {
		if line, err := fs.ReadFile(proc, p); err == nil && string(line) == "/usr/lib/cc/cc-guest\x00watch\x00" {
			return strconv.Atoi(filepath.Dir(p))
		}
	}
	return 0, errors.New("there is no monitor")
}

func look(secrets [][]byte, system fs.FS, file string) {
	data, err := fs.ReadFile(system, file)
	if err != nil {
		return // it has ended
	}
	for i, s := range secrets {
		if bytes.Contains(data, s) {
			say("LEAK: secret %d is in %s", i, file)
		}
	}
}

// guests tells how large a core dump of a running cc-guest may be.
func guests(proc fs.FS, processes []string) string {
	for _, p := range processes {
		name, _ := fs.ReadFile(proc, p+"/comm")
		if strings.TrimSpace(string(name)) != "cc-guest" {
			continue
		}
		limits, _ := fs.ReadFile(proc, p+"/limits")
		for _, line := range strings.Split(string(limits), "\n") {
			if strings.HasPrefix(line, "Max core file size") {
				return "cc-guest: " + strings.Join(strings.Fields(line), " ")
			}
		}
	}
	return "no cc-guest"
}
