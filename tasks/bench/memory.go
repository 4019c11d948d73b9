package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// pace is how often memory is looked at. A peak that is shorter is missed.
const pace = 100 * time.Millisecond

type watch struct {
	stop chan struct{}
	peak chan int
}

// watchMemory follows what the programs that this process has started hold.
func watchMemory() watch {
	w := watch{stop: make(chan struct{}), peak: make(chan int, 1)}
	go func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		kib := 0
		for {
			select {
			case <-w.stop:
				w.peak <- (kib + 1023) / 1024
				return
			case <-tick.C:
				kib = max(kib, held(os.Getpid()))
			}
		}
	}()
	return w
}

func (w watch) end() (mib int) {
	close(w.stop)
	return <-w.peak
}

// held is the memory of the process's descendants in KiB. One that ends while it
// is looked at counts as nothing.
func held(pid int) (kib int) {
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
