package build

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// followParents makes the build end with the command that the user started.
//
// The kernel sends SIGTERM when the parent dies, which is mage. Under
// `go tool mage` the process that the user sees, and that a CI system kills, is
// the go command one step above; nothing tells its grandchildren, so it is
// looked at twice a second. Any other grandparent is a shell, which may go
// while its background job goes on.
func followParents(ctx context.Context, end context.CancelFunc) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		return err
	}
	parent := os.Getppid()
	grandparent, err := parentOf(parent)
	if err != nil || comm(grandparent) != "go" {
		return nil
	}
	go func() {
		t := time.NewTicker(500 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if now, err := parentOf(parent); err != nil || now != grandparent {
					end()
					return
				}
			}
		}
	}()
	return nil
}

// parentOf returns the parent of a process: the fourth field of its stat file,
// the second after the name in parentheses (proc_pid_stat(5)).
func parentOf(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	rest := string(data)
	rest = rest[strings.LastIndexByte(rest, ')')+1:]
	var state string
	var parent int
	if _, err := fmt.Sscan(rest, &state, &parent); err != nil {
		return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return parent, nil
}

func comm(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
