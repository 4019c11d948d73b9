package renewal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cc-base/tasks/toolbox"
)

// event is something that reached the disk's file: a write, or, without data,
// a sync.
type event struct {
	off  int64
	data []byte
}

// tool runs cryptsetup of the tools tree without entering the tree, as a child
// of this process, so that its writes can be seen and it can be killed at one.
type tool struct {
	tree toolbox.Tree
	disk string // the file that stands for the partition

	see    func(event) // every write to the disk and every sync, before it is done
	killAt int         // kill -9 before this write of reencrypt or repair, from 1; 0: never
	writes int         // of reencrypt and repair, so far
	runs   []string
}

func (r *tool) Run(ctx context.Context, secrets [][]byte, stdin []byte, _ string, args ...string) (string, int, error) {
	action := args[0]
	onDisk := args[len(args)-1] == r.disk && !strings.Contains(strings.Join(args, " "), "--header=")
	if action == "reencrypt" && onDisk {
		args = append([]string{action, "--hotzone-size=1M"}, args[1:]...) // so that there are several
	}
	if onDisk {
		r.runs = append(r.runs, action)
	}
	root := func(path string) string { return filepath.Join(r.tree.Dir, path) }
	cmd := exec.CommandContext(ctx, root("lib64/ld-linux-x86-64.so.2"),
		append([]string{"--library-path", root("usr/lib/x86_64-linux-gnu"), root("usr/sbin/cryptsetup")}, args...)...)
	cmd.Stdin = strings.NewReader(string(stdin))
	for _, s := range secrets {
		read, write, err := os.Pipe()
		if err != nil {
			return "", -1, err
		}
		defer read.Close()
		if _, err := write.Write(s); err != nil {
			return "", -1, err
		}
		write.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, read)
	}
	if !onDisk || r.see == nil && r.killAt == 0 {
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return string(out), exit.ExitCode(), nil
		}
		return string(out), 0, err
	}
	status, err := r.traced(cmd)
	return "", status, err
}

// traced runs the command under ptrace(2).
func (r *tool) traced(cmd *exec.Cmd) (int, error) {
	runtime.LockOSThread() // whose tracee it is
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return -1, err
	}
	pid := cmd.Process.Pid
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		return -1, err
	}
	if err := syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACESYSGOOD); err != nil {
		return -1, err
	}
	for entry := true; ; {
		if err := syscall.PtraceSyscall(pid, 0); err != nil {
			return -1, err
		}
		if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
			return -1, err
		}
		switch {
		case ws.Exited():
			return ws.ExitStatus(), nil
		case ws.Signaled():
			return -1, fmt.Errorf("%s", ws.Signal())
		case ws.StopSignal() != syscall.SIGTRAP|0x80:
			continue
		}
		if entry {
			e, ok, err := r.call(pid)
			if err != nil {
				return -1, err
			}
			if ok && e.data != nil {
				r.writes++
			}
			if ok && e.data != nil && r.writes == r.killAt {
				err := syscall.Kill(pid, syscall.SIGKILL)
				if _, waited := syscall.Wait4(pid, &ws, 0, nil); err == nil {
					err = waited
				}
				return -1, errors.Join(err, errors.New("killed"))
			}
			if ok && r.see != nil {
				r.see(e)
			}
		}
		entry = !entry
	}
}

// call returns what the system call is going to do to the disk.
func (r *tool) call(pid int) (event, bool, error) {
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(pid, &regs); err != nil {
		return event{}, false, err
	}
	proc := "/proc/" + strconv.Itoa(pid)
	fd := strconv.FormatUint(regs.Rdi, 10)
	switch regs.Orig_rax {
	case syscall.SYS_WRITE, syscall.SYS_PWRITE64, syscall.SYS_WRITEV, syscall.SYS_FSYNC, syscall.SYS_FDATASYNC:
	default:
		return event{}, false, nil
	}
	if path, err := os.Readlink(proc + "/fd/" + fd); err != nil || path != r.disk {
		return event{}, false, nil
	}
	switch regs.Orig_rax {
	case syscall.SYS_FSYNC, syscall.SYS_FDATASYNC:
		return event{}, true, nil
	case syscall.SYS_WRITEV, syscall.SYS_PWRITE64:
		return event{}, false, errors.New("cryptsetup writes in a way that this test does not follow")
	}
	info, err := os.ReadFile(proc + "/fdinfo/" + fd)
	if err != nil {
		return event{}, false, err
	}
	var pos int64
	if _, err := fmt.Sscanf(string(info), "pos: %d", &pos); err != nil {
		return event{}, false, err
	}
	mem, err := os.Open(proc + "/mem")
	if err != nil {
		return event{}, false, err
	}
	defer mem.Close()
	data := make([]byte, regs.Rdx)
	if _, err := mem.ReadAt(data, int64(regs.Rsi)); err != nil {
		return event{}, false, err
	}
	return event{off: pos, data: data}, true, nil
}

// file is the disk's file, whose writes are events as well.
type file struct {
	*os.File
	see  func(event)
	left int // writes that still succeed; negative: all
}

var errPower = errors.New("power cut")

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if f.left == 0 {
		return 0, errPower
	}
	f.left--
	if f.see != nil {
		f.see(event{off: off, data: append([]byte(nil), p...)})
	}
	return f.File.WriteAt(p, off)
}

func (f *file) Sync() error {
	if f.see != nil {
		f.see(event{})
	}
	return nil
}

func open(t *testing.T, name string, see func(event)) *file {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &file{File: f, see: see, left: -1}
}
