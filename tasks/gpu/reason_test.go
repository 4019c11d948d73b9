package gpu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The kernel's refusals cannot be made on a machine without the device; what
// each of them means is tested here by itself.
func TestEveryRefusalOfTheKernelHasItsReason(t *testing.T) {
	t.Parallel()
	open, locked := t.TempDir(), t.TempDir()
	security := filepath.Join(locked, "sys/kernel/security")
	if err := errors.Join(os.MkdirAll(security, 0o755), os.WriteFile(filepath.Join(security, "lockdown"), []byte("none [integrity] confidentiality\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		root string
		err  error
		want string
	}{
		{open, syscall.ENOENT, "no file resource0"},
		{open, syscall.EACCES, "no permission to open BAR0: run as root"},
		{open, syscall.EPERM, "container"},
		{locked, syscall.EPERM, "lockdown (integrity) forbids"},
		{open, syscall.EINVAL, "the bound driver holds BAR0"},
		{open, syscall.ENODEV, "does not map"},
		{open, syscall.EIO, "cannot be read: open resource0: input/output error"},
	} {
		wrapped := fmt.Errorf("%w", &fs.PathError{Op: "open", Path: "resource0", Err: test.err})
		if got := (Sysfs{Root: test.root}).reason(wrapped); !strings.Contains(got.Error(), test.want) {
			t.Errorf("%v: %q, want %q", test.err, got, test.want)
		}
	}
}
