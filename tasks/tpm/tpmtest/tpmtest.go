// Package tpmtest gives tests a TPM 2.0: swtpm from the tools tree, on a Unix
// socket. A test that wants one is skipped, or fails under CI=true, where the
// tools tree is missing.
package tpmtest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
	"cc-base/tasks/tpm"
)

// startTime bounds swtpm's start on a loaded machine.
const startTime = 30 * time.Second

// Start starts a TPM that has never been used and returns its data socket, which
// lies in a folder of its own: bind that folder where a tool of the tree is to
// use the TPM, as TCTI tells. Everything ends with the test.
func Start(t testing.TB) (path string) {
	t.Helper()
	// Not t.TempDir: swtpm splits its options at commas, which a subtest's name
	// may have.
	state, err := os.MkdirTemp("", "tpmstate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	path, _ = StartState(t, state)
	return path
}

// StartState starts a TPM with its memory in the folder state: a second start
// with the same folder is a reboot, after which the PCRs are reset. stop ends
// the TPM before the test does. The folder's name must not have a comma.
func StartState(t testing.TB, state string) (path string, stop func()) {
	t.Helper()
	// A socket's path may have 107 bytes; t.TempDir is longer.
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "s")
	tools, _ := lab.Tools(t, dir, state)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- tools.Run(ctx, sh.Cmd{Name: "swtpm", Args: []string{
			"socket", "--tpm2", "--tpmstate", "dir=" + state,
			"--server", "type=unixio,path=" + path,
			// Where tpm2-tss looks for the control channel of a path.
			"--ctrl", "type=unixio,path=" + path + ".ctrl",
			"--flags", "not-need-init,startup-clear",
		}})
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			<-ended
		})
	}
	t.Cleanup(stop)
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		// The name is there before somebody listens.
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return path, stop
		}
		select {
		case err := <-ended:
			ended <- err // stop waits for it, too
			t.Fatalf("swtpm ended at once: %v", err)
		default:
		}
		if time.Since(begin) > startTime {
			t.Fatalf("swtpm has made no socket after %s", startTime)
		}
	}
}

// TCTI names the TPM at the socket for tools on tpm2-tss. Such a tool wants the
// TPM for itself: close the connection first.
func TCTI(path string) string { return "swtpm:path=" + path }

// Dial connects to the TPM until the test ends or the caller closes it.
func Dial(t testing.TB, path string) *tpm.TPM {
	t.Helper()
	device, err := tpm.DialUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = device.Close() })
	return device
}

// Boot extends PCRs 0 to 7 as firmware does, so that the bank counts as
// measured. A different firmware leaves other values.
func Boot(t testing.TB, device *tpm.TPM, firmware string) {
	t.Helper()
	for pcr := range 8 {
		if err := device.Extend(pcr, []byte(firmware)); err != nil {
			t.Fatal(err)
		}
	}
}
