package hw

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// programs finds who has a device open for writing. A virtual machine uses a
// disk in just this way and no exclusive open meets it: QEMU does not claim
// its disks. Without the rights to look at a process it is passed over, and so
// is one that ends meanwhile.
func (s *scan) programs() {
	byNumber := map[Number]string{}
	for name, d := range s.nodes {
		byNumber[d.Number] = name
	}
	s.writers = map[string][]string{}
	for _, pid := range s.list("proc") {
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		for _, fd := range s.list("proc/" + pid + "/fd") {
			info, err := fs.Stat(s.root, "proc/"+pid+"/fd/"+fd)
			if err != nil || info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) != fs.ModeDevice {
				continue
			}
			stat, ok := info.Sys().(*syscall.Stat_t)
			if !ok {
				continue
			}
			number := Number{unix.Major(stat.Rdev), unix.Minor(stat.Rdev)}
			if name := byNumber[number]; name != "" && forWriting(s.text("proc/"+pid+"/fdinfo/"+fd)) {
				s.writers[name] = append(s.writers[name], fmt.Sprintf("%s (process %s)", s.text("proc/"+pid+"/comm"), pid))
			}
		}
	}
}

// forWriting reads the flags of open(2) in octal (proc_pid_fdinfo(5)).
func forWriting(fdinfo string) bool {
	for line := range strings.Lines(fdinfo) {
		if value, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
			return err == nil && flags&syscall.O_ACCMODE != syscall.O_RDONLY
		}
	}
	return false
}
