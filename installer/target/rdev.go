package target

import (
	"io/fs"
	"syscall"
)

// rdevOf is the one place that knows what is behind a FileInfo on Linux.
func rdevOf(info fs.FileInfo) (uint64, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return uint64(stat.Rdev), true
}
