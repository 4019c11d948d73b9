package monitor

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Held is the memory that the process's descendants hold, in KiB, each shared page
// counted once among those who share it (PSS, proc_pid_smaps(5)). One that ends while
// it is looked at counts as nothing.
func Held(pid int) (kib int) {
	parents := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		if parent, ok := parentIn(file); ok {
			parents[parent] = append(parents[parent], child)
		}
	}
	for next := parents[pid]; len(next) > 0; {
		one := next[0]
		next = append(next[1:], parents[one]...)
		kib += pss(one)
	}
	return kib
}

// parentIn reads the fourth field of a stat file (proc_pid_stat(5)); the second,
// a name in parentheses, may hold anything.
func parentIn(file string) (pid int, ok bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 2 {
		return 0, false
	}
	pid, err = strconv.Atoi(fields[1])
	return pid, err == nil
}

func pss(pid int) (kib int) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "Pss: %d kB", &kib); err == nil {
			return kib
		}
	}
	return 0
}
