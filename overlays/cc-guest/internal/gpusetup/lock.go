package gpusetup

import (
	"errors"
	"os"
	"path/filepath"

	"cc-base/tasks/gpu"
)

// Lock closes the kernel that was started open to let the driver in: from here
// on not even root changes it, and it takes signed modules alone. Neither can
// be taken back (Linux security/lockdown/lockdown.c, kernel/module/signing.c).
// root is the root folder. A kernel that Secure Boot has locked already refuses
// to be locked again.
func Lock(root string) error {
	if err := write(root, "sys/module/module/parameters/sig_enforce", "Y"); err != nil {
		return err
	}
	if mode := gpu.Lockdown(os.DirFS(root)); mode == "integrity" || mode == "confidentiality" {
		return nil
	}
	return write(root, "sys/kernel/security/lockdown", "integrity")
}

// write writes to a file of the kernel's, which is never made.
func write(root, name, value string) error {
	f, err := os.OpenFile(filepath.Join(root, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
